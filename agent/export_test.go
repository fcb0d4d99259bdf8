package agent

import (
	"context"
	"encoding/json"
	"time"

	"github.com/drrun/drrun/agent/tracker"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/durable"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// Limits under test.
const MaxOps = maxOps

// DecodeRecord reads machine.json.
func DecodeRecord(b []byte) error {
	_, err := decodeRecord("machine.json", b)
	return err
}

// RecordAgain reads machine.json and writes it anew into dir; extra is what it
// holds that no field takes.
func RecordAgain(b []byte, dir string) (extra durable.Extra, err error) {
	r, err := decodeRecord("machine.json", b)
	if err != nil {
		return nil, err
	}
	return r.extra, r.write(vfs.OS{}, dir)
}

// OperationAgain reads the file of an operation and encodes it anew.
func OperationAgain(b []byte) ([]byte, error) {
	op, err := decodeOperation(b)
	if err != nil {
		return nil, err
	}
	return json.Marshal(op)
}

// DecodeOperation reads the file of an operation.
func DecodeOperation(b []byte) error {
	_, err := decodeOperation(b)
	return err
}

// Ops is an operation store by itself.
type Ops struct{ s *opStore }

// NewOps returns a store in dir.
func NewOps(dir string, life context.Context) Ops { return NewOpsOn(vfs.OS{}, dir, life) }

// NewOpsOn returns a store in dir of a file system.
func NewOpsOn(fsys vfs.FS, dir string, life context.Context) Ops {
	return Ops{newOpStore(fsys, dir, time.Now, func(f func(context.Context)) { go f(life) })}
}

// Once runs f as an operation; idempotent says that it may be run again.
func (o Ops) Once(ctx context.Context, id, verb string, idempotent bool, f func(context.Context) (string, error)) (string, error) {
	return once(ctx, o.s, id, verb, again(idempotent), f)
}

// CheckURL is the URL of an HTTP check.
func CheckURL(in command.CheckRequest) (string, error) { return checkURL(in) }

// InitialWait is the time until a first copy.
var InitialWait = initialWait

// Grant is the verb without the wire.
func (a *Agent) Grant(ctx context.Context, in command.GrantRequest) error {
	m, err := a.machine(in.Machine)
	if err == nil {
		_, err = m.grant(ctx, in)
	}
	return err
}

// Claim is the verb without the wire.
func (a *Agent) Claim(in command.ClaimRequest) error {
	m, err := a.machine(in.Machine)
	if err == nil {
		_, err = m.claim(in)
	}
	return err
}

// SetTracker is called before Run.
func (a *Agent) SetTracker(t tracker.Tracker) { a.tracker = t }

// DecodeLeft reads the note of a process that was left running.
func DecodeLeft(b []byte) error {
	_, err := decodeLeft(b)
	return err
}

// EncodeItem writes the file of an item of the catalogue.
var EncodeItem = encodeItem

// DecodeItem reads it.
var DecodeItem = decodeItem

// ResumeStale settles the right to run as if the machine were to run, whatever
// its record says by now: the record was read before it was stopped.
func (a *Agent) ResumeStale(ctx context.Context, name string) (settled bool) {
	m, err := a.machine(name)
	if err != nil {
		return false
	}
	rec := m.snapshot()
	rec.Desired = recovery.PowerRunning
	return m.resumeOnce(ctx, rec)
}

// HoldRole keeps a machine from taking up its role, until release.
func (a *Agent) HoldRole(ctx context.Context, machine string) (release func(), err error) {
	m, err := a.machine(machine)
	if err != nil {
		return nil, err
	}
	return m.takeRole(ctx)
}

// EncodeLease makes the file of a lease.
func EncodeLease(sent, length time.Duration) []byte {
	b, err := encodeLease(leaseFile{Boot: "b", Epoch: 1, Rev: 1, Sent: sent, Length: length})
	if err != nil {
		panic(err)
	}
	return b
}

// DecodeLease reads it.
func DecodeLease(b []byte) (sent, length time.Duration, err error) {
	l, err := decodeLease(b)
	return l.Sent, l.Length, err
}
