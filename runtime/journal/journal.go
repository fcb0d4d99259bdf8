// Package journal keeps the records of a run in the store: one record, one
// commit, in an unbroken series of numbers. A run is the fold of its records.
//
// It does not know what a record means (package runtime/state does). A Journal
// belongs to one goroutine; two journals of one run cannot both append,
// because a record's key must be absent when it is written.
package journal

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/crash"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/runtime/store"
)

// Version is the version of the record format. Version 1: a JSON object as in
// Record; the key is run/ID/j/ and the number in 16 decimal digits.
const Version = 1

// Record is one line of a journal. An engine that does not know Version, or a
// word of Must, does not resume the run; words of May are ignored. A large body is
// stored packed: see the word packed.
type Record struct {
	Version int             `json:"version"`
	Must    []string        `json:"must,omitempty"`
	May     []string        `json:"may,omitempty"`
	Drrun   string          `json:"drrun,omitempty"` // version of the drrun that wrote it; read in any version of a record
	Seq     uint64          `json:"seq"`             // from 1
	Time    time.Time       `json:"time"`
	Kind    string          `json:"kind"`
	Body    json.RawMessage `json:"body,omitempty"`
}

// packed, a word of Must, says that the body is a JSON string: the base64 of the
// gzip file (RFC 1952) of the body. The program of a plan of 10,000 machines is a
// body of 24 MB, which becomes 2 MB.
const packed = "packed"

// packAbove is the size of a body above which it is packed, in bytes.
const packAbove = 256 << 10

// maxBody is the most that a body may have, in bytes; tests have less.
var maxBody = 256 << 20

// Encode returns the stored form. A body above 256 MiB is fault.Invalid.
func Encode(r Record) ([]byte, error) {
	if r.Seq == 0 || r.Kind == "" || r.Time.IsZero() {
		return nil, fault.Errorf(fault.Internal, "cannot write a record without number, kind or time")
	}
	r.Version, r.Time, r.Must = Version, r.Time.UTC(), nil
	if len(r.Body) > maxBody {
		return nil, fault.Errorf(fault.Invalid, "a journal record has %d bytes, the limit is %d", len(r.Body), maxBody)
	}
	if len(r.Body) > packAbove {
		body, err := pack(r.Body)
		if err != nil {
			return nil, err
		}
		r.Must, r.Body = []string{packed}, body
	}
	if !json.Valid(r.Body) && len(r.Body) > 0 {
		return nil, fault.Errorf(fault.Internal, "the body of a journal record is no JSON")
	}
	return envelope(r)
}

// envelope writes a record around its body, which encoding/json would read and copy
// once more. The format is that of Record.
func envelope(r Record) ([]byte, error) {
	const around = 128
	out := make([]byte, 0, around+len(r.Drrun)+len(r.Kind)+len(r.Body))
	out = strconv.AppendInt(append(out, `{"version":`...), int64(r.Version), 10)
	var err error
	field := func(name string, v any) {
		raw, merr := json.Marshal(v)
		err = errors.Join(err, merr)
		out = append(append(append(append(out, `,"`...), name...), `":`...), raw...)
	}
	if len(r.Must) > 0 {
		field("must", r.Must)
	}
	if len(r.May) > 0 {
		field("may", r.May)
	}
	if r.Drrun != "" {
		field("drrun", r.Drrun)
	}
	out = strconv.AppendUint(append(out, `,"seq":`...), r.Seq, 10)
	out, terr := r.Time.AppendText(append(out, `,"time":"`...))
	out = append(out, '"')
	field("kind", r.Kind)
	if len(r.Body) > 0 {
		out = append(append(out, `,"body":`...), r.Body...)
	}
	return append(out, '}'), errors.Join(err, terr)
}

func pack(body json.RawMessage) (json.RawMessage, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err == nil {
		_, err = w.Write(body)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(b.Bytes())
}

func unpack(body json.RawMessage) (json.RawMessage, error) {
	var frame []byte
	if err := json.Unmarshal(body, &frame); err != nil {
		return nil, err
	}
	r, err := gzip.NewReader(bytes.NewReader(frame))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, int64(maxBody)+1))
	switch {
	case err != nil:
		return nil, err
	case len(out) > maxBody:
		return nil, fmt.Errorf("it has more than %d bytes", maxBody)
	case !json.Valid(out):
		return nil, errors.New("it is not JSON")
	}
	return out, nil
}

// Decode reads a stored record. An unknown version or must-flag is
// fault.Refused and names it; anything malformed is fault.Corrupt.
func Decode(raw []byte) (Record, error) {
	var head struct {
		Version int      `json:"version"`
		Must    []string `json:"must"`
		Drrun   string   `json:"drrun"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return Record{}, fault.Errorf(fault.Corrupt, "cannot read a journal record: %w", err)
	}
	hint := "resume the run with the drrun that wrote it, or a newer one; other runs are not concerned"
	if head.Drrun != "" {
		hint = fmt.Sprintf("resume the run with drrun %s, which wrote it, or a newer one; other runs are not concerned", head.Drrun)
	}
	if head.Version > Version {
		return Record{}, fault.Errorf(fault.Refused, "the journal has version %d, this drrun knows up to %d", head.Version, Version).WithHint("%s", hint)
	}
	unknown := slices.DeleteFunc(slices.Clone(head.Must), func(word string) bool { return word == packed })
	if len(unknown) > 0 {
		return Record{}, fault.Errorf(fault.Refused, "the journal needs %s, which this drrun does not know", strings.Join(unknown, ", ")).WithHint("%s", hint)
	}
	var r Record
	if err := json.Unmarshal(raw, &r); err != nil {
		return Record{}, fault.Errorf(fault.Corrupt, "cannot read a journal record: %w", err)
	}
	if r.Version < 1 || r.Seq == 0 || r.Kind == "" || r.Time.IsZero() {
		return Record{}, fault.Errorf(fault.Corrupt, "cannot read a journal record: version, number, kind or time is missing")
	}
	if len(head.Must) > 0 {
		body, err := unpack(r.Body)
		if err != nil {
			return Record{}, fault.Errorf(fault.Corrupt, "cannot read a journal record: the packed body of record %d: %w", r.Seq, err)
		}
		r.Body, r.Must = body, nil
	}
	r.Time = r.Time.UTC()
	return r, nil
}

// Prefix is the key under which a run's records stand.
func Prefix(run string) string { return "run/" + run + "/j/" }

// Key is the key of a record.
func Key(run string, seq uint64) string {
	const zeros = "0000000000000000"
	digits := strconv.FormatUint(seq, 10)
	return "run/" + run + "/j/" + zeros[min(len(digits), len(zeros)):] + digits
}

// Journal appends to the records of one run.
type Journal struct {
	Drrun string // version of this program, noted in each record; may be empty
	store store.Store
	run   string
	next  uint64
}

// New starts or continues a journal whose next record has number next.
func New(s store.Store, run string, next uint64) *Journal {
	return &Journal{store: s, run: run, next: next}
}

// Load reads all records of a run and returns the journal to continue it. A
// gap in the numbers is fault.Corrupt.
func Load(ctx context.Context, s store.Store, run string) (*Journal, []Record, error) {
	j := New(s, run, 1)
	var records []Record
	for kv, err := range s.List(ctx, Prefix(run)) {
		if err != nil {
			return nil, nil, fmt.Errorf("cannot read the journal of run %s: %w", run, err)
		}
		r, err := Decode(kv.Value)
		if err != nil {
			return nil, nil, fault.Errorf(fault.KindOf(err), "run %s: %w", run, err)
		}
		if r.Seq != j.next || kv.Key != Key(run, r.Seq) {
			return nil, nil, fault.Errorf(fault.Corrupt, "cannot read the journal of run %s: record %d is missing", run, j.next).
				WithHint("restore the state from a backup (drrun state restore), or look at the machines with: drrun status")
		}
		records = append(records, r)
		j.next++
	}
	return j, records, nil
}

// Next is the number of the record that Append writes next.
func (j *Journal) Next() uint64 { return j.next }

// Append commits a record together with other changes of the store (also, if
// not empty, only when cmps hold), and returns it with its number. ok is false
// when somebody else has appended, or a comparison does not hold. When err is
// not nil, nobody knows whether the record is there: load again.
func (j *Journal) Append(ctx context.Context, r Record, also []store.Op, cmps ...store.Cmp) (_ Record, ok bool, err error) {
	r.Seq, r.Version, r.Drrun = j.next, Version, j.Drrun
	raw, err := Encode(r)
	if err != nil {
		return Record{}, false, err
	}
	key := Key(j.run, r.Seq)
	txn := store.Txn{If: append([]store.Cmp{{Key: key}}, cmps...), Then: append([]store.Op{{Key: key, Value: raw}}, also...)}
	crash.At("runtime.record.before")
	if _, ok, err = j.store.Txn(ctx, txn); err != nil || !ok {
		if err != nil {
			err = fmt.Errorf("cannot write the journal of run %s: %w", j.run, err)
		}
		return Record{}, false, err
	}
	crash.At("runtime.record.after")
	j.next++
	return r, true, nil
}
