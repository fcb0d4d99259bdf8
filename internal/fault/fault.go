// Package fault is the closed set of error kinds, the operator's hint that
// travels with an error, and the one table of exit codes.
//
// An error has a kind when somebody can act on it: retry policy, exit code and
// wire form read the kind and nothing else. Values are immutable.
package fault

import (
	"errors"
	"fmt"
)

// Kind says what sort of fault it is. The numbers go over the wire: append only.
type Kind uint8

// The kinds of fault.
const (
	Internal    Kind = 1  // a bug in drrun
	Invalid     Kind = 2  // bad input: usage, plan, estate, flag; nothing was started
	Refused     Kind = 3  // state, right or preflight says no; nothing was changed
	Stopped     Kind = 4  // a run stopped; resume or rollback
	Waiting     Kind = 5  // a person is asked
	Unknown     Kind = 6  // the outcome of an operation is unknown, or replay diverged
	Partial     Kind = 7  // an unplanned run ended with errors
	Unreachable Kind = 8  // controller or agent not reached, state folder locked, port in use; transient
	Corrupt     Kind = 9  // log, point, journal or state failed its check
	Failed      Kind = 10 // ended without reaching the aim
	Interrupted Kind = 11 // stopped by a signal; resumable
	Conflict    Kind = 12 // older epoch or fencing number, or two records of one number
	NoSpace     Kind = 13 // a disk or store is full
	NotFound    Kind = 14 // no such machine, run, point or host
)

var kindNames = map[Kind]string{
	Internal: "internal", Invalid: "invalid", Refused: "refused", Stopped: "stopped", Waiting: "waiting",
	Unknown: "unknown", Partial: "partial", Unreachable: "unreachable", Corrupt: "corrupt", Failed: "failed",
	Interrupted: "interrupted", Conflict: "conflict", NoSpace: "no-space", NotFound: "not-found",
}

// String returns the kind's word.
func (k Kind) String() string {
	if s, ok := kindNames[k]; ok {
		return s
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// Exit codes of both programs (docs: EXIT STATUS in every help text).
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitInvalid     = 2
	ExitRefused     = 3
	ExitStopped     = 4
	ExitWaiting     = 5
	ExitUnknown     = 6
	ExitPartial     = 7
	ExitUnreachable = 8
	ExitCorrupt     = 9
	ExitInternal    = 10
	ExitInterrupted = 130
)

var exitCodes = map[Kind]int{
	Internal: ExitInternal, Invalid: ExitInvalid, Refused: ExitRefused, Stopped: ExitStopped,
	Waiting: ExitWaiting, Unknown: ExitUnknown, Partial: ExitPartial, Unreachable: ExitUnreachable,
	Corrupt: ExitCorrupt, Failed: ExitFailed, Interrupted: ExitInterrupted, Conflict: ExitRefused,
	NoSpace: ExitFailed, NotFound: ExitInvalid,
}

// Error is an error with a kind and, where there is one, the next step for the
// operator. It marshals to JSON as it goes over the wire and into journals.
type Error struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	err     error
}

// Error implements error; the hint is not part of it (see Hint).
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause, if it is still at hand (not after the wire).
func (e *Error) Unwrap() error { return e.err }

// Errorf makes an error of a kind. %w works as in fmt.Errorf; a hint of a
// wrapped error is kept.
func Errorf(k Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	cause := errors.Unwrap(err)
	if many := (interface{ Unwrap() []error })(nil); errors.As(err, &many) && cause == nil {
		cause = err // several causes
	}
	return &Error{Kind: k, Message: err.Error(), Hint: Hint(err), err: cause}
}

// WithHint sets what the operator can do next, in one sentence or command.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Wrap gives err (not nil) a kind unless it has one already.
func Wrap(k Kind, err error) *Error {
	var fe *Error
	if errors.As(err, &fe) {
		return &Error{Kind: fe.Kind, Message: err.Error(), Hint: Hint(err), err: err}
	}
	return &Error{Kind: k, Message: err.Error(), err: err}
}

// KindOf returns the kind of the outermost Error in err's chain; Internal for
// an error without one, 0 for nil.
func KindOf(err error) Kind {
	if err == nil {
		return 0
	}
	var fe *Error
	if errors.As(err, &fe) {
		return fe.Kind
	}
	return Internal
}

// Is reports whether err has kind k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// Hint returns the hint nearest to the surface of err's chain, or "".
func Hint(err error) string {
	for err != nil {
		var fe *Error
		if !errors.As(err, &fe) {
			return ""
		}
		if fe.Hint != "" {
			return fe.Hint
		}
		err = fe.err
	}
	return ""
}

// ExitCode returns the exit code for err: the one table of contracts.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	if c, ok := exitCodes[KindOf(err)]; ok {
		return c
	}
	return ExitInternal
}
