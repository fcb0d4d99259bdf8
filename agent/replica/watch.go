package replica

import (
	"errors"
	"sync"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/quantity"
)

// MaxClockJump is how far the wall clock may move against the monotonic one, or
// across a restart, before thinning stops.
const MaxClockJump = time.Hour

// ErrClockJumped says that thinning has stopped because the wall clock jumped;
// errors.Is finds it. ClockAgrees or ConfirmClock lets it go on.
var ErrClockJumped = errors.New("the wall clock jumped")

// clockDoubt is a jump of the wall clock that nobody has confirmed.
type clockDoubt struct {
	Jump  time.Duration `json:"jump"`  // forward if positive; all jumps since then
	Since time.Time     `json:"since"` // wall clock after the first
}

// clockSure says who confirmed the wall clock last.
type clockSure struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
	// Seq is the newest point then: when those up to it were received, the
	// clock may have been wrong.
	Seq ident.Seq `json:"seq"`
}

// clockWatch notices that the wall clock jumped against the monotonic one.
type clockWatch struct {
	mu   sync.Mutex
	wall time.Time     // wall clock at the first look, or when it had jumped
	mono time.Duration // monotonic clock then
}

// look returns how far the clock jumped since then, in one step or several; 0:
// not too far.
func (c *clockWatch) look(now time.Time, mono time.Duration) (jump time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now = now.Round(0)
	first := c.wall.IsZero()
	if d := now.Sub(c.wall) - (mono - c.mono); !first && d.Abs() > MaxClockJump {
		jump = d
	}
	if first || jump != 0 {
		c.wall, c.mono = now, mono
	}
	return jump
}

// startWatch begins to watch. Across a restart nothing tells a clock that was
// set from time that passed: a wall clock that is far from the last durable
// time, behind it or ahead, is in doubt until somebody confirms it.
func (m *Machine) startWatch(now time.Time) {
	m.thin.look(now, m.elapsed())
	last := m.st.Clock
	for _, p := range m.points {
		if (m.st.Sure == nil || p.Seq > m.st.Sure.Seq) && p.Received.After(last) {
			last = p.Received
		}
	}
	if jump := now.Round(0).Sub(last); m.st.Doubt == nil && !last.IsZero() && jump.Abs() > MaxClockJump {
		m.doubt(jump, now)
	}
}

// doubt notes a jump, durably if the store takes it.
func (m *Machine) doubt(jump time.Duration, now time.Time) {
	change := func(s *state) {
		d := clockDoubt{Jump: jump, Since: now.UTC()}
		if s.Doubt != nil {
			d.Jump, d.Since = d.Jump+s.Doubt.Jump, s.Doubt.Since
		}
		s.Doubt = &d
	}
	m.log.Warn("the wall clock jumped: points are not thinned until it is confirmed", "jump", jump.String())
	if err := m.record(change); err != nil {
		m.log.Warn("the jump of the wall clock is not recorded yet", "err", err)
		m.mu.Lock()
		defer m.mu.Unlock()
		change(&m.st) // with the next mark
	}
}

// ClockDoubt returns an error of kind fault.Refused, which is ErrClockJumped,
// while the wall clock, which shows now, is not to be believed; else nil.
func (m *Machine) ClockDoubt(now time.Time) error {
	if jump := m.thin.look(now, m.elapsed()); jump != 0 {
		m.doubt(jump, now)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	d := m.st.Doubt
	if d == nil {
		return nil
	}
	way := "forward"
	if d.Jump < 0 {
		way = "back"
	}
	return fault.Errorf(fault.Refused, "%w %s by %s: points are not thinned", ErrClockJumped, way, quantity.FormatDuration(d.Jump.Abs())).
		WithHint("look at the host's clock; if it is right: drrun-agent confirm-clock (a peer whose clock agrees confirms it as well)")
}

// ClockAgrees takes in what time it is for somebody else: if it is the same
// here, give or take MaxClockJump, the wall clock is confirmed.
func (m *Machine) ClockAgrees(who string, theirs time.Time) {
	now := m.cfg.Clock.Now()
	if now.Round(0).Sub(theirs).Abs() >= MaxClockJump || m.ClockDoubt(now) == nil {
		return
	}
	if err := m.ConfirmClock(who); err != nil {
		m.log.Warn("the wall clock is right and thinning does not go on yet", "err", err)
	}
}

// ConfirmClock says for a person or a peer that the wall clock is right, which
// is recorded with who did: thinning goes on.
func (m *Machine) ConfirmClock(by string) error {
	now := m.cfg.Clock.Now()
	if m.ClockDoubt(now) == nil {
		return nil
	}
	tip, _ := m.tip()
	err := m.record(func(s *state) {
		s.Doubt, s.Clock = nil, now.UTC()
		s.Sure = &clockSure{By: by, At: now.UTC(), Seq: tip.Seq}
	})
	if err == nil {
		m.log.Info("the wall clock is confirmed, thinning goes on", "by", by)
	}
	return err
}
