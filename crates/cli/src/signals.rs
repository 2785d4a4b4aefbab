//! Handles Ctrl-C and other signals that ask the program to end.

use crate::terminal;
use kvant::io::signals;

/// Installs the signal handlers. If `steps` is true, the handlers only count Ctrl-C and other signals, and the command
/// checks the count between its steps. If `steps` is false, the first signal ends the program immediately. A third
/// press of Ctrl-C ends every command immediately.
pub fn catch(steps: bool) {
    let caught = if steps { signals::count() } else { signals::end_at_once() };
    if let Err(error) = caught.and_then(|()| signals::abort_with_status()) {
        terminal::say(format_args!("Ctrl-C will end the program at once: {error}"));
    }
}

/// Returns the number of presses of Ctrl-C. Another signal that asks the program to end counts as two presses.
pub fn interrupts() -> usize {
    signals::interrupts() + if signals::ended() { 2 } else { 0 }
}

/// Sets the number of presses of Ctrl-C to 0. Other signals that ask the program to end are not forgotten.
pub fn forget_interrupts() {
    signals::forget_interrupts();
}
