//! The time of day where the user is, for chat templates.

use kvant::model::LocalTime;

/// Now, in the zone of `TZ` or of the machine; in UTC where neither is known.
pub fn local_time() -> LocalTime {
    let now = jiff::Zoned::now();
    let microsecond = now.subsec_nanosecond().unsigned_abs() / 1000;
    LocalTime::at(now.timestamp().as_second(), microsecond, now.offset().seconds().into())
}
