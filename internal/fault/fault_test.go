package fault_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/drrun/drrun/internal/fault"
)

// TestKinds pins numbers, which go over the wire and into journals, words and
// exit codes, which scripts rely on.
func TestKinds(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		kind fault.Kind
		num  uint8
		word string
		exit int
	}{
		{fault.Internal, 1, "internal", 10},
		{fault.Invalid, 2, "invalid", 2},
		{fault.Refused, 3, "refused", 3},
		{fault.Stopped, 4, "stopped", 4},
		{fault.Waiting, 5, "waiting", 5},
		{fault.Unknown, 6, "unknown", 6},
		{fault.Partial, 7, "partial", 7},
		{fault.Unreachable, 8, "unreachable", 8},
		{fault.Corrupt, 9, "corrupt", 9},
		{fault.Failed, 10, "failed", 1},
		{fault.Interrupted, 11, "interrupted", 130},
		{fault.Conflict, 12, "conflict", 3},
		{fault.NoSpace, 13, "no-space", 1},
		{fault.NotFound, 14, "not-found", 2},
		{fault.Kind(200), 200, "kind-200", 10},
	} {
		err := fmt.Errorf("wrapped: %w", fault.Errorf(tc.kind, "x"))
		if uint8(tc.kind) != tc.num || tc.kind.String() != tc.word || fault.ExitCode(err) != tc.exit || !fault.Is(err, tc.kind) {
			t.Errorf("%s: number %d, exit %d; want %s, %d, %d", tc.kind, uint8(tc.kind), fault.ExitCode(err), tc.word, tc.num, tc.exit)
		}
	}
	if fault.ExitCode(nil) != 0 || fault.ExitCode(errors.New("bug")) != 10 || fault.KindOf(nil) != 0 || fault.Is(nil, 0) {
		t.Error("errors without a kind")
	}
}

func TestCauseAndHintAreKept(t *testing.T) {
	t.Parallel()
	inner := fault.Errorf(fault.NoSpace, "disk full: %w", fs.ErrInvalid).WithHint("add %s", "a disk")
	for name, err := range map[string]error{
		"one cause":     fault.Errorf(fault.Failed, "cannot store: %w", inner),
		"two causes":    fault.Errorf(fault.Failed, "%w, after %w", inner, context.Canceled),
		"joined":        fault.Errorf(fault.Failed, "cannot store: %w", errors.Join(context.Canceled, inner)),
		"plain between": fault.Errorf(fault.Failed, "a: %w", fmt.Errorf("b: %w", inner)),
	} {
		if !errors.Is(err, fs.ErrInvalid) || fault.Hint(err) != "add a disk" || fault.KindOf(err) != fault.Failed {
			t.Errorf("%s: %s fault %v, hint %q", name, fault.KindOf(err), err, fault.Hint(err))
		}
	}
	if err := fault.Errorf(fault.Failed, "%w, after %w", inner, context.Canceled); !errors.Is(err, context.Canceled) {
		t.Error("the second cause is lost")
	}
	outer := fault.Errorf(fault.Failed, "cannot store: %w", inner).WithHint("call the storage team")
	if fault.Hint(outer) != "call the storage team" || fault.Hint(inner) != "add a disk" || fault.Hint(errors.New("x")) != "" {
		t.Errorf("hints %q, %q", fault.Hint(outer), fault.Hint(inner))
	}
	w := fault.Wrap(fault.Refused, fmt.Errorf("round it: %w", inner))
	if w.Kind != fault.NoSpace || w.Message != "round it: disk full: invalid argument" || w.Hint != "add a disk" || !errors.Is(w, fs.ErrInvalid) {
		t.Errorf("wrapped: %+v", w)
	}
	if w := fault.Wrap(fault.Refused, fs.ErrInvalid); w.Kind != fault.Refused || !errors.Is(w, fs.ErrInvalid) {
		t.Errorf("wrapped: %+v", w)
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal(fault.Errorf(fault.Conflict, "epoch 3").WithHint("look"))
	if want := `{"kind":12,"message":"epoch 3","hint":"look"}`; err != nil || string(b) != want {
		t.Errorf("%s, %v; want %s", b, err, want)
	}
	var back fault.Error
	if err := json.Unmarshal(b, &back); err != nil || back.Kind != fault.Conflict || back.Error() != "epoch 3" || fault.Hint(&back) != "look" {
		t.Errorf("read back %+v, %v", back, err)
	}
}
