//! Ctrl-C and wishes of the system that the program end.

use crate::terminal;
use kvant::io::signals;

/// Lets Ctrl-C and wishes of the system be noticed between steps, where a command looks for them (it `steps`); ends
/// other commands at once. A third press ends every command at once.
pub fn catch(steps: bool) {
    let caught = if steps { signals::count() } else { signals::end_at_once() };
    if let Err(error) = caught.and_then(|()| signals::abort_with_status()) {
        terminal::say(format_args!("Ctrl-C will end the program at once: {error}"));
    }
}

/// How often Ctrl-C was pressed; another wish that the program end counts as two presses.
pub fn interrupts() -> usize {
    signals::interrupts() + if signals::ended() { 2 } else { 0 }
}

/// Forgets earlier presses of Ctrl-C; other wishes stay.
pub fn forget_interrupts() {
    signals::forget_interrupts();
}
