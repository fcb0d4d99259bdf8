package copies

import (
	"encoding/json"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/report"
)

// headVersion is the newest version of a run's head that is known here; its
// words are those of package runtime, which writes it.
const headVersion = 1

// head is what matters here of what the list of runs says of one.
type head struct {
	Version  int              `json:"version"`
	ID       string           `json:"id"`
	Type     recovery.Type    `json:"type"`
	Status   report.RunStatus `json:"status"`
	Created  time.Time        `json:"created"`
	Follow   string           `json:"follow"`
	Machines []string         `json:"machines"`
}

// readHead reads the value under journal.HeadPrefix + run.
func readHead(raw []byte) (head, error) {
	var h head
	if err := json.Unmarshal(raw, &h); err != nil || h.ID == "" || h.Version < 1 {
		return head{}, fault.Errorf(fault.Corrupt, "cannot read the head of a run")
	}
	if h.Version > headVersion {
		return head{}, fault.Errorf(fault.Refused, "the head of run %s has version %d, this drrun knows up to %d", h.ID, h.Version, headVersion).
			WithHint("use the drrun that wrote it, or a newer one")
	}
	return h, nil
}

func (h *head) ended() bool { return h.Status.Ended() }

// untouched reports whether the run has changed nothing yet, or never will: it
// looks, or was refused. A copy of it would tell other runtimes that they have
// missed something.
func (h *head) untouched() bool {
	return h.Status == report.RunPreflight || h.Status == report.RunRefused
}

// busy reports whether steps may be under way.
func (h *head) busy() bool { return h.Status.Busy() || h.Follow != "" }

// claims reports whether the run's machines are its own.
func (h *head) claims() bool { return h.Type != recovery.Test && !h.ended() }

// sourcesOf names the blobs that a run was started with, from its first record.
func sourcesOf(first journal.Record) ([]string, error) {
	var r struct {
		Run struct {
			Bundle string `json:"bundle"`
			Estate string `json:"estate"`
			Plan   string `json:"plan"`
		} `json:"run"`
	}
	if err := json.Unmarshal(first.Body, &r); err != nil {
		return nil, fault.Errorf(fault.Corrupt, "cannot read the first record of a run: %w", err)
	}
	var out []string
	for _, b := range []string{r.Run.Bundle, r.Run.Estate, r.Run.Plan} {
		if b != "" {
			out = append(out, b)
		}
	}
	return out, nil
}
