package control

import (
	"context"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/report"
)

// DrillRequest is about the drill of an applied plan.
type DrillRequest struct {
	Plan string `json:"plan"`
	By   string `json:"by"`
	// Drill is what AddDrill puts in force in place of what the plan says.
	Drill *plans.Drill `json:"drill,omitempty"`
	// Resume ends a pause.
	Resume bool   `json:"resume,omitempty"`
	Text   string `json:"text,omitempty"` // why it is paused
}

// DrillsResult lists the drills of the applied plans.
type DrillsResult struct {
	Drills []report.Drill `json:"drills"`
}

var (
	verbDrills      = verb[Empty, DrillsResult]{"drills"}
	verbAddDrill    = verb[DrillRequest, report.Drill]{"add-drill"}
	verbRemoveDrill = verb[DrillRequest, report.Drill]{"remove-drill"}
	verbRunDrill    = verb[DrillRequest, report.Run]{"run-drill"}
	verbPauseDrill  = verb[DrillRequest, report.Drill]{"pause-drill"}
)

// Drills is what the server needs of the scheduler of drills.
type Drills interface {
	Drills(ctx context.Context) ([]report.Drill, error)
	// AddDrill schedules a plan in place of what it says itself.
	AddDrill(ctx context.Context, r DrillRequest) (report.Drill, error)
	// RemoveDrill ends what AddDrill began.
	RemoveDrill(ctx context.Context, r DrillRequest) (report.Drill, error)
	// RunDrill starts a drill now.
	RunDrill(ctx context.Context, r DrillRequest) (report.Run, error)
	// PauseDrill holds the drills of a plan back, or lets them go on.
	PauseDrill(ctx context.Context, r DrillRequest) (report.Drill, error)
	// Proven says whether an applied plan is proven.
	Proven(ctx context.Context, plan string) (report.Proven, error)
}

// ServeDrills lets the server answer for drills. It is called before Serve.
func (s *Server) ServeDrills(d Drills) {
	mux := s.mux
	s.drills = d
	handle(mux, verbDrills, func(ctx context.Context, _ Empty) (DrillsResult, error) {
		all, err := d.Drills(ctx)
		return DrillsResult{Drills: all}, err
	})
	handle(mux, verbAddDrill, d.AddDrill)
	handle(mux, verbRemoveDrill, d.RemoveDrill)
	handle(mux, verbRunDrill, d.RunDrill)
	handle(mux, verbPauseDrill, d.PauseDrill)
}

// status adds to the status of the estate which plans are proven.
func (s *Server) status(ctx context.Context, r MachineRequest) (estate.Status, error) {
	st, err := deref(s.estate.Status(ctx, r.Machine))
	if err != nil || s.drills == nil || r.Machine != "" {
		return st, err
	}
	for i := range st.Plans {
		p, err := s.drills.Proven(ctx, st.Plans[i].Name)
		if err != nil { // the rest of the status is not the worse for it
			p = report.Proven{Plan: st.Plans[i].Name, Why: []string{"it cannot be judged: " + err.Error()}, Tests: []report.TestTime{}}
		}
		st.Plans[i].Proven = &p
	}
	return st, nil
}

// Drills lists the drills of the applied plans.
func (c *Client) Drills(ctx context.Context) ([]report.Drill, error) {
	r, err := call(ctx, c, verbDrills, Empty{})
	return r.Drills, err
}

// AddDrill schedules a plan in place of what it says itself.
func (c *Client) AddDrill(ctx context.Context, r DrillRequest) (report.Drill, error) {
	return call(ctx, c, verbAddDrill, r)
}

// RemoveDrill ends what AddDrill began.
func (c *Client) RemoveDrill(ctx context.Context, r DrillRequest) (report.Drill, error) {
	return call(ctx, c, verbRemoveDrill, r)
}

// RunDrill starts a drill now.
func (c *Client) RunDrill(ctx context.Context, r DrillRequest) (report.Run, error) {
	return call(ctx, c, verbRunDrill, r)
}

// PauseDrill holds the drills of a plan back, or lets them go on.
func (c *Client) PauseDrill(ctx context.Context, r DrillRequest) (report.Drill, error) {
	return call(ctx, c, verbPauseDrill, r)
}
