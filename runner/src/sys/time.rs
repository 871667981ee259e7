//! The caller's time zone, which only libc reads.

/// Seconds since 1970 UTC of the moment at which a clock of the caller's zone (`TZ`, else the host's)
/// shows what a clock of UTC shows at `wall` seconds. `None` where there is no such moment.
pub fn from_local(wall: i64) -> Option<i64> {
    // SAFETY: all zero is a valid `tm`, whose zone is a null pointer. tm(3type).
    let mut shown: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point at values of this frame; the result is `shown` or null. gmtime_r(3).
    if unsafe { libc::gmtime_r(&raw const wall, &raw mut shown) }.is_null() {
        return None;
    }
    // Whether it is summer there is for the zone's own rules to say.
    shown.tm_isdst = -1;
    // SAFETY: reads and completes the value of this frame. It reads the environment, which nobody
    // changes: this program never does. mktime(3).
    let at = unsafe { libc::mktime(&raw mut shown) };
    // One second before 1970 is a time like any other, and what mktime(3) answers for none.
    (at != -1 || wall.abs() < 2 * 24 * 3600).then_some(at)
}
