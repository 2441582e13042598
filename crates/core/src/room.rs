//! Room below a limit whose count is dear: what a look found is believed for a while, for a share of the room that it found.

/// The share of the room found that may be filled before the next look: others fill it, too.
const SHARE: i64 = 16;
/// How often as long as it took a look is believed: so looks take a tenth of a caller's time at most.
const BELIEVED: i64 = 10;
/// The longest that it is believed, in microseconds.
const BELIEVED_AT_MOST: i64 = 10_000_000;

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    most: i64,
    room: i64,
    /// When it ended, in microseconds, and until when it is believed.
    believed: (i64, i64),
    /// What was added since.
    added: i64,
}

/// What a look says of something that is to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Enough,
    /// There was less room when it was looked.
    Short,
    /// Look again.
    Unknown,
}

impl Look {
    /// A look that found `there` where `most` may be, from one moment to another in microseconds.
    pub fn new(most: i64, there: i64, began: i64, ended: i64) -> Self {
        let believed = ended.saturating_sub(began).saturating_mul(BELIEVED).clamp(0, BELIEVED_AT_MOST);
        Self {
            most,
            room: (most - there).max(0),
            believed: (ended, ended.saturating_add(believed)),
            added: 0,
        }
    }

    /// Whether there is room for `adding` more where `most` may be.
    pub fn room(&self, most: i64, adding: i64, now: i64) -> Room {
        let (from, until) = self.believed;
        let added = self.added.saturating_add(adding);
        if most != self.most || !(from..until).contains(&now) {
            Room::Unknown
        } else if added > self.room {
            Room::Short
        } else if added <= self.room / SHARE {
            Room::Enough
        } else {
            Room::Unknown
        }
    }

    /// Notes what was added.
    pub fn add(&mut self, added: i64) {
        self.added = self.added.saturating_add(added);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_believed_for_a_share_of_the_room_and_of_the_time() {
        // 40 of 200 are there; looking took 5 µs.
        let mut look = Look::new(200, 40, 95, 100);
        assert_eq!(look.room(200, 10, 100), Room::Enough);
        assert_eq!(look.room(200, 11, 100), Room::Unknown);
        assert_eq!(look.room(200, 160, 149), Room::Unknown);
        assert_eq!(look.room(200, 161, 149), Room::Short);
        assert_eq!(look.room(200, 161, 150), Room::Unknown);
        // The clock was put back; another limit.
        assert_eq!(look.room(200, 1, 99), Room::Unknown);
        assert_eq!(look.room(300, 161, 100), Room::Unknown);
        look.add(8);
        assert_eq!(look.room(200, 2, 100), Room::Enough);
        assert_eq!(look.room(200, 3, 100), Room::Unknown);
        assert_eq!(look.room(200, 153, 100), Room::Short);
    }

    #[test]
    fn a_full_one_refuses_and_is_looked_at_again() {
        let look = Look::new(7, 9, 0, 3_000_000);
        assert_eq!(look.room(7, 1, 3_000_000), Room::Short);
        assert_eq!(look.room(7, 1, 12_999_999), Room::Short);
        assert_eq!(look.room(7, 1, 13_000_000), Room::Unknown);
        // One that took no time is not believed.
        assert_eq!(Look::new(7, 0, 5, 5).room(7, 1, 5), Room::Unknown);
    }

    /// Each session's share of what it saw: with fewer sessions than shares, none of which sees what the others add meanwhile, the limit
    /// holds but for what is added at once.
    #[test]
    fn sessions_that_look_now_and_then_keep_the_limit() {
        let (most, mut there, mut looks) = (1_000, 0, 0);
        let mut known = [Look::new(most, 0, 0, 0); 8];
        for now in 0..10_000 {
            let look = &mut known[now as usize % 8];
            let mut room = look.room(most, 1, now);
            if room == Room::Unknown {
                looks += 1;
                *look = Look::new(most, there, now - 1_000, now);
                room = if there < most { Room::Enough } else { Room::Short };
            }
            if room == Room::Enough {
                look.add(1);
                there += 1;
            }
        }
        assert_eq!(there, most);
        assert!(looks < 1_000, "{looks}");
    }
}
