package report

import "time"

// Drill is a plan's scheduled test, and what became of it so far.
type Drill struct {
	Plan   string       `json:"plan"`
	When   string       `json:"when"` // cron line, or "first sunday"
	TZ     string       `json:"tz"`
	Added  bool         `json:"added,omitempty"` // by a person, not by the plan
	Point  string       `json:"point,omitempty"` // selector
	TTL    float64      `json:"ttl"`             // seconds
	Next   []time.Time  `json:"next,omitempty"`  // when the next ones start
	Paused *DrillPause  `json:"paused,omitempty"`
	Broken string       `json:"broken,omitempty"` // why it cannot be scheduled
	Events []DrillEvent `json:"events,omitempty"` // oldest first
	Proven *Proven      `json:"proven,omitempty"`
}

// DrillPause says who holds drills back.
type DrillPause struct {
	By   string    `json:"by"`
	At   time.Time `json:"at"`
	Text string    `json:"text,omitempty"`
}

// DrillEvent is what became of one due drill.
type DrillEvent struct {
	Due  time.Time `json:"due"`
	At   time.Time `json:"at"`
	What string    `json:"what"` // started, skipped, queued, failed (to start)
	Why  string    `json:"why,omitempty"`
	Run  string    `json:"run,omitempty"`
	Also int       `json:"also,omitempty"` // earlier ones of which the same is true
	// Status and Reason are how the run stands, empty when it is not kept any
	// more.
	Status RunStatus `json:"status,omitempty"`
	Reason string    `json:"reason,omitempty"`
	// Missed says that it went to its end and did not meet the plan's objectives.
	Missed bool `json:"missed,omitempty"`
}

// Result is the event in one word: passed, missed (its objectives), failed,
// running, or what became of it before it began.
func (e *DrillEvent) Result() string {
	switch {
	case e.Run == "":
		return e.What
	case e.Missed:
		return "missed"
	case e.Status == RunDone:
		return "passed"
	case e.Status == "":
		return "started"
	case e.Status.Ended():
		return "failed"
	}
	return string(e.Status)
}

// Proven says whether a plan is proven: its last test passed and was of the plan,
// the estate and the policies of now.
type Proven struct {
	Plan   string     `json:"plan"`
	Proven bool       `json:"proven"`
	Run    string     `json:"run,omitempty"`    // the last test that passed
	At     time.Time  `json:"at,omitzero"`      // when that ended
	Why    []string   `json:"why,omitempty"`    // it is not proven
	Since  time.Time  `json:"since,omitzero"`   // it is not proven
	Tests  []TestTime `json:"tests"`            // the trend, oldest first
	Slower string     `json:"slower,omitempty"` // the alarm, where the last took much longer
}

// TestTime is how long a test of a plan took. Seconds.
type TestTime struct {
	Run    string    `json:"run"`
	Ended  time.Time `json:"ended"`
	RTO    float64   `json:"rto"`
	Passed bool      `json:"passed"`
}
