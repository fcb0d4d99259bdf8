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
}

// Result is the event in one word: passed, failed, running, or what became of
// it before it began.
func (e *DrillEvent) Result() string {
	switch {
	case e.Run == "":
		return e.What
	case e.Status == RunDone:
		return "passed"
	case e.Status == "":
		return "started"
	case e.Status.Ended():
		return "failed"
	}
	return string(e.Status)
}
