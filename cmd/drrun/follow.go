package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/drrun/drrun/cmd/internal/term"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/control"
	"github.com/drrun/drrun/runtime/report"
)

// follow shows a run until nothing more happens by itself, asks the questions
// that it has for a person, prints how it ended, and returns its exit code.
func (c *cli) follow(ctx context.Context, s *session, run report.Run) error {
	return c.followSince(ctx, s, run, time.Time{})
}

// followSince is follow for an operation on a run that has a history: what
// happened before since is not shown again.
func (c *cli) followSince(ctx context.Context, s *session, run report.Run, since time.Time) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &follower{cli: c, s: s, run: run, view: newView(run, c.Stderr), since: since}
	f.painter = term.NewPainter(c.Stderr)
	defer f.painter.Close()
	err := f.loop(ctx)
	f.painter.Clear()
	f.painter.Close()
	if err != nil {
		return err
	}
	end, err := s.Run(ctx, run.ID)
	if err != nil {
		return err
	}
	return f.finish(end)
}

// follower is one command that watches one run.
type follower struct {
	*cli
	s       *session
	run     report.Run
	view    *view
	painter *term.Painter

	since  time.Time // events before it are known already; zero: none
	last   uint64    // sequence number of the last event seen
	heard  time.Time // when it came
	looked time.Time // when the run was last asked how it stands
	ended  bool      // the last event says that nothing more happens by itself
	calm   bool      // when it was last asked nothing was going on; no event since
	asking string    // step of the question on the terminal; empty: none
	paused bool      // the user interrupted: the run is to pause
}

// arrival is an event or the end of the stream.
type arrival struct {
	ev  report.Event
	err error
	end bool
}

func (f *follower) loop(ctx context.Context) error {
	events := make(chan arrival)
	go f.read(ctx, events)
	interrupts, giveBack := f.signals.take()
	defer giveBack()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var typed <-chan string
		if f.asking != "" {
			typed = f.asker.Lines()
		}
		var err error
		done := false
		select {
		case a := <-events:
			done, err = f.arrived(a)
		case line, ok := <-typed:
			err = f.typed(ctx, line, ok)
		case <-interrupts:
			err = f.interrupted(ctx)
		case now := <-tick.C:
			done, err = f.look(ctx, now)
			if f.asking == "" && f.output == "table" {
				f.painter.Draw(now, f.view.lines(now))
			}
		}
		if err != nil || done {
			return err
		}
	}
}

// read passes the run's events on until the stream ends.
func (f *follower) read(ctx context.Context, events chan<- arrival) {
	send := func(a arrival) bool {
		select {
		case events <- a:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for ev, err := range f.s.Events(ctx, f.run.ID, 0) {
		if !send(arrival{ev: ev, err: err}) || err != nil {
			return
		}
	}
	send(arrival{end: true})
}

// arrived shows an event.
func (f *follower) arrived(a arrival) (done bool, err error) {
	if a.end {
		return true, nil
	}
	if a.err != nil {
		return false, fault.Errorf(fault.KindOf(a.err), "cannot follow run %s any more: %w", f.run.ID, a.err).
			WithHint("drrun watch %s", f.run.ID)
	}
	f.last, f.heard = max(f.last, a.ev.Seq), time.Now()
	f.ended, f.calm = a.ev.Kind == report.EventEnd, false
	old := a.ev.Time.Before(f.since)
	if f.output == "json" && !old {
		return false, f.printLine(a.ev)
	}
	if lines := f.view.apply(a.ev); len(lines) > 0 && !old && f.output == "table" {
		if f.asking != "" { // the question was at the bottom: it comes again below
			f.asking = ""
			f.errorf("\n")
		}
		f.painter.Replace(f.view.lines(time.Now()))
		f.painter.Print(lines...)
	}
	return false, nil
}

// How long a run must be quiet before it is asked how it stands: at once when
// it said that it has settled, else now and then.
const (
	quietAfterEnd = 100 * time.Millisecond
	quiet         = time.Second
)

// look asks how the run stands when it has been quiet: whether it has settled,
// and whether it has a question. Old events do not count for either: a run that
// was resumed has settled before.
func (f *follower) look(ctx context.Context, now time.Time) (done bool, err error) {
	wait := quiet
	if f.ended {
		wait = quietAfterEnd
	}
	if now.Sub(f.heard) < wait || now.Sub(f.looked) < wait {
		return false, nil
	}
	f.looked = now
	run, err := f.s.Run(ctx, f.run.ID)
	if err != nil {
		return false, err
	}
	if f.asking != "" && !slices.ContainsFunc(run.Waits, func(w report.Wait) bool { return w.Step == f.asking }) {
		f.asking = "" // answered elsewhere, or its time is over
		f.errorf("\n  (answered elsewhere)\n")
	}
	f.view.setWaits(run.Waits)
	if f.Asks && !f.paused && f.output == "table" && len(run.Waits) > 0 {
		if f.asking == "" {
			f.ask(run.Waits[0])
		}
		return false, nil
	}
	working := slices.ContainsFunc(run.Steps, func(s report.Step) bool { return s.Status == report.StepRunning })
	// Twice, with no event in between: what it said last has been shown.
	calm := !run.Status.Busy() && !working
	done = calm && f.calm
	f.calm = calm
	return done, nil
}

// ask puts a question on the terminal, below everything else.
func (f *follower) ask(w report.Wait) {
	f.asking = w.Step
	f.asker.Forget() // what was typed before it was asked is no answer
	f.painter.Clear()
	f.errorf("%s %s: answer %s, with a remark if you like: ", f.Stderr.Paint(term.Yellow, "?"), term.Escape(w.Name, false), joinOr(w.Answers))
}

// typed answers the question that is asked.
func (f *follower) typed(ctx context.Context, line string, ok bool) error {
	if !ok { // nobody is there any more
		f.asking, f.Asks = "", false
		return nil
	}
	word, text := cutWord(line)
	i := slices.IndexFunc(f.view.open, func(w report.Wait) bool { return w.Step == f.asking })
	if i >= 0 && !slices.Contains(f.view.open[i].Answers, word) {
		f.errorf("  answer %s: ", joinOr(f.view.open[i].Answers))
		return nil
	}
	_, err := f.s.Answer(ctx, control.AnswerRequest{Run: f.run.ID, Wait: f.asking, Answer: word, Text: text, By: f.User})
	f.asking = ""
	if err != nil {
		f.painter.Print("  " + term.Escape(err.Error(), false))
		return nil
	}
	return nil
}

// interrupted pauses an embedded run the first time and leaves the second; from
// a controller's run it detaches.
func (f *follower) interrupted(ctx context.Context) error {
	f.asking = ""
	switch {
	case f.s.embedded() == nil:
		f.painter.Clear()
		f.errorf("detached; the run goes on: drrun watch %s\n", f.run.ID)
		return exitError{fault.ExitInterrupted}
	case f.paused:
		f.painter.Clear()
		f.s.embedded().Leave()
		f.errorf("left at once; drrun resume %s goes on\n", f.run.ID)
		return exitError{fault.ExitInterrupted}
	}
	f.paused = true
	f.painter.Print("pausing after the steps in flight; interrupt again to leave at once")
	if _, err := f.s.Pause(ctx, control.RunRequest{Run: f.run.ID, By: f.User}); err != nil {
		f.painter.Print("cannot pause: " + term.Escape(err.Error(), false))
	}
	return nil
}

// finish prints how the run stands and turns that into the exit code.
func (f *follower) finish(run report.Run) error {
	if f.output == "json" {
		if err := f.printLine(report.Event{Run: run.ID, Seq: f.last, Time: time.Now().UTC(), Kind: "result", Head: &run}); err != nil {
			return err
		}
	} else if err := f.printf("%s", runText(&run, false)); err != nil {
		return err
	}
	code := run.ExitCode
	if f.paused && code == fault.ExitStopped {
		code = fault.ExitInterrupted
	}
	if code == fault.ExitOK {
		return nil
	}
	return exitError{code}
}

// joinOr lists words as a person does: "go or stop".
func joinOr(words []string) string {
	switch n := len(words); n {
	case 0:
		return ""
	case 1:
		return words[0]
	default:
		s := words[0]
		for _, w := range words[1 : n-1] {
			s += ", " + w
		}
		return fmt.Sprintf("%s or %s", s, words[n-1])
	}
}
