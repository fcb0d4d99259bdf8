package replica

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"time"

	"github.com/drrun/drrun/internal/durable"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/planted"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// RecordVersion is the version of replica.json and of the manifests in
// points/. Newer versions and unknown must flags are refused by name, and the
// file is left as it is.
const RecordVersion = 1

// The formats of the durable records.
const (
	formatState = "drrun replica"
	formatPoint = "drrun point"
)

// maxSeq is the highest sequence number of a point: far from where the next one
// would begin anew.
const maxSeq = 1 << 53

// The must flags of replica.json: what a program that does not know them would
// take for something else.
const (
	mustBack = "overlay-back"   // the overlay goes and the base takes its place
	mustOver = "discarded-over" // the heads may hold bytes of the point over one that was given up
)

// must are the flags that a reader of the state has to understand.
func (s *state) must() []string {
	flags := []string{}
	if s.Live != nil && s.Live.Phase == phaseBack {
		flags = append(flags, mustBack)
	}
	if s.Discarded != nil && s.Discarded.Begun {
		flags = append(flags, mustOver)
	}
	return flags
}

// What this program makes of records of other versions. Manifests are never
// rewritten for it.
var (
	stateFormat = durable.Format{Version: RecordVersion, Must: []string{mustBack, mustOver}, Program: "drrun-agent"}
	pointFormat = durable.Format{Version: RecordVersion, Program: "drrun-agent"}
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// envelope is the outer form of every durable record of this package: one line
// of JSON. CRC is that of the bytes of Body.
type envelope struct {
	Format  string          `json:"format"`
	Version int             `json:"version"`
	Must    []string        `json:"must"` // flags a reader has to understand
	May     []string        `json:"may"`  // flags a reader may ignore
	CRC     uint32          `json:"crc32c"`
	Body    json.RawMessage `json:"body"`
}

// kept is what a record of a newer program holds that this one may ignore.
type kept struct {
	may   []string
	extra durable.Extra
}

func encodeRecord(format string, body any, k kept) ([]byte, error) {
	b, err := durable.Marshal(body, k.extra)
	if err != nil {
		return nil, fmt.Errorf("cannot encode %s: %w", format, err)
	}
	if k.may == nil {
		k.may = []string{}
	}
	must := []string{}
	if s, ok := body.(state); ok {
		must = s.must()
	}
	out, err := json.Marshal(envelope{
		Format: format, Version: RecordVersion, Must: must, May: k.may,
		CRC: crc32.Checksum(b, castagnoli), Body: b,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot encode %s: %w", format, err)
	}
	return append(out, '\n'), nil
}

// decodeRecord reads a record of a format into body, a pointer to a struct.
// fault.Refused: a newer program wrote it; fault.Corrupt: it is damaged.
func decodeRecord[T any](format, name string, data []byte, body *T) (k kept, err error) {
	corrupt := func(what string, args ...any) (kept, error) {
		return kept{}, fault.Errorf(fault.Corrupt, "cannot read %s: %s", name, fmt.Sprintf(what, args...)).
			WithHint("keep the file; the other points of the machine are not touched by it")
	}
	versions := &stateFormat
	if format == formatPoint {
		versions = &pointFormat
	}
	if data, err = versions.Upgrade(name, data); err != nil {
		return kept{}, err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	var e envelope
	if err := dec.Decode(&e); err != nil {
		return corrupt("%v", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return corrupt("something follows the record")
	}
	if e.Format != format {
		return corrupt("its format is %q, not %q", e.Format, format)
	}
	if got := crc32.Checksum(e.Body, castagnoli); got != e.CRC {
		return corrupt("its checksum is %08x, want %08x", got, e.CRC)
	}
	if err := json.Unmarshal(e.Body, body); err != nil {
		return corrupt("%v", err)
	}
	if k.extra, err = durable.Unknown(e.Body, *body); err != nil {
		return corrupt("%v", err)
	}
	k.may = e.May
	return k, nil
}

// mark names a recovery point; the zero mark names none.
type mark struct {
	Point ident.PointID `json:"point"`
	Seq   ident.Seq     `json:"seq"`
}

func markOf(p recovery.Point) mark { return mark{Point: p.ID, Seq: p.Seq} }

// Phases of a live overlay and of a test view.
const (
	phaseCopy   = "copy"   // files are being made; a start throws them away
	phaseSwitch = "switch" // files are whole and take their places; a start goes on with it
	phaseReady  = "ready"
	phaseBack   = "back" // the overlay goes and the base takes its place; a start goes on with it
	phaseDrop   = "drop" // a test view is being removed
)

// live is the overlay of a real failover: the machine runs at the head paths,
// the head it was made from is kept beside them.
type live struct {
	Run       string         `json:"run"`
	Point     recovery.Point `json:"point"`
	Phase     string         `json:"phase"`
	Committed bool           `json:"committed,omitempty"`
	Mode      string         `json:"mode,omitempty"`
	Bytes     int64          `json:"bytes,omitempty"`
	Took      time.Duration  `json:"took,omitempty"`
	At        time.Time      `json:"at,omitzero"` // when it was put in place
}

// testView is the throw-away view of a test; it pins its point.
type testView struct {
	Point ident.PointID `json:"point"`
	Phase string        `json:"phase"`
	Mode  string        `json:"mode,omitempty"`
	Bytes int64         `json:"bytes,omitempty"`
	Took  time.Duration `json:"took,omitempty"`
}

// diskState is what the store remembers of a disk.
type diskState struct {
	ID   ident.DiskID `json:"id"`
	Head string       `json:"head"`
}

// state is replica.json: the marks that say how far each step has come.
type state struct {
	Machine string               `json:"machine"`
	Disks   map[string]diskState `json:"disks"`
	// Owned is set before the first byte is written to the head paths: from
	// then on what stands there is the replica.
	Owned   bool          `json:"owned,omitempty"`
	Applied mark          `json:"applied"` // the point the heads hold
	Table   mark          `json:"table"`   // the point the tables hold
	TipAge  time.Duration `json:"tip_age,omitempty"`
	Hold    bool          `json:"hold,omitempty"`
	Live    *live         `json:"live,omitempty"`
	// Tests by id.
	Tests map[string]testView `json:"tests,omitempty"`
	// Adopting is the manifest of a take-over whose files are whole; a start
	// goes on with it.
	Adopting *recovery.Point `json:"adopting,omitempty"`
	// Rescan are disks whose block table has to be made again.
	Rescan []string `json:"rescan,omitempty"`
	// Dropping are files that nothing names any more.
	Dropping []string `json:"dropping,omitempty"`
	// Thinning are points that retention drops: their manifests and undo logs go.
	Thinning []mark `json:"thinning,omitempty"`
	// Discarded is what a person gave up of an old primary's disks.
	Discarded *discarded `json:"discarded,omitempty"`
	// Clock is the wall clock at the last thinning, or when it was confirmed.
	Clock time.Time `json:"clock,omitzero"`
	// Doubt says that the wall clock jumped and nobody has confirmed it since;
	// Sure who did it last.
	Doubt *clockDoubt `json:"clock_doubt,omitempty"`
	Sure  *clockSure  `json:"clock_sure,omitempty"`

	kept kept
}

func (s *state) clone() state {
	c := *s
	c.Disks = cloneMap(s.Disks)
	c.Tests = cloneMap(s.Tests)
	c.Dropping = slices.Clone(s.Dropping)
	c.Rescan = slices.Clone(s.Rescan)
	c.Thinning = slices.Clone(s.Thinning)
	if s.Live != nil {
		l := *s.Live
		c.Live = &l
	}
	return c
}

func cloneMap[K comparable, V any](m map[K]V) map[K]V {
	c := make(map[K]V, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

func decodeState(name string, data []byte) (state, error) {
	var s state
	k, err := decodeRecord(formatState, name, data, &s)
	if err != nil {
		return state{}, err
	}
	s.kept = k
	bad := func(err error) error { return fault.Errorf(fault.Corrupt, "cannot read %s: %w", name, err) }
	if err := ident.CheckName(s.Machine); err != nil {
		return state{}, bad(err)
	}
	for d := range s.Disks {
		if err := ident.CheckName(d); err != nil {
			return state{}, bad(err)
		}
	}
	for t := range s.Tests {
		if err := checkTest(t); err != nil {
			return state{}, bad(err)
		}
	}
	return s, nil
}

func decodePoint(name string, data []byte) (recovery.Point, error) {
	var p recovery.Point
	if _, err := decodeRecord(formatPoint, name, data, &p); err != nil {
		return recovery.Point{}, err
	}
	if err := checkPoint(p); err != nil {
		return recovery.Point{}, fault.Errorf(fault.Corrupt, "cannot read %s: %w", name, err)
	}
	return p, nil
}

// checkPoint refuses a manifest that could not have been written here.
func checkPoint(p recovery.Point) error {
	if p.Version != recovery.FormatVersion {
		return fmt.Errorf("point %s has version %d, this program knows %d", p.ID, p.Version, recovery.FormatVersion)
	}
	if p.ID.IsZero() || p.Seq == 0 {
		return fmt.Errorf("point has no id or no sequence number")
	}
	if p.Seq > maxSeq {
		return fmt.Errorf("point %s has the sequence number %d, allowed are %d", p.ID, p.Seq, maxSeq)
	}
	if len(p.Disks) == 0 {
		return fmt.Errorf("point %s has no disks", p.ID)
	}
	seen := map[string]bool{}
	for _, d := range p.Disks {
		if err := ident.CheckName(d.Name); err != nil {
			return err
		}
		if seen[d.Name] {
			return fmt.Errorf("point %s names disk %s twice", p.ID, d.Name)
		}
		seen[d.Name] = true
		if d.Size < 0 || d.Segments < 0 || d.Segments > maxSegments {
			return fmt.Errorf("disk %s of point %s: size %d, %d segments", d.Name, p.ID, d.Size, d.Segments)
		}
		if d.Segments > 0 && d.Log.IsZero() {
			return fmt.Errorf("disk %s of point %s has segments and no log", d.Name, p.ID)
		}
	}
	return nil
}

func writeRecord(fsys vfs.FS, name, format string, body any, k kept) error {
	data, err := encodeRecord(format, body, k)
	if err != nil {
		return err
	}
	if planted.Is(planted.ManifestSync) && format == formatPoint {
		return planted.Unsynced(fsys, name, data)
	}
	if err := vfs.WriteFile(fsys, name, data, 0o600); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return nil
}
