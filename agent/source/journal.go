package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/drrun/drrun/agent/blocksum"
	"github.com/drrun/drrun/internal/durable"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/recovery"
	"github.com/drrun/drrun/internal/vfs"
)

// JournalVersion is the version of journal.json this package writes.
const JournalVersion = 1

// journalFormat is what this program makes of journals of other versions.
var journalFormat = durable.Format{Version: JournalVersion, Program: "drrun-agent"}

const (
	journalName = "journal.json"
	maxJournal  = 16 << 20 // bytes; a journal is a few KiB
	maxSegments = 1 << 20  // of one log: 64 TiB stored
)

// journal is all the source side of a machine has to remember: what the target
// acknowledged (Tip), what was cut and is on its way (Cut), and for each disk
// how far its log got. It is replaced as a whole at every step.
type journal struct {
	Version int      `json:"version"`
	Must    []string `json:"must,omitempty"` // features a reader has to know
	May     []string `json:"may,omitempty"`  // features a reader may ignore
	Machine string   `json:"machine"`
	// Tip is the newest acknowledged point; nil: none yet.
	Tip *recovery.Point `json:"tip,omitempty"`
	// Next names the point that the logs under way will lead to.
	Next ident.PointID `json:"next"`
	// Cut is the manifest of a cut whose acknowledgement is not known.
	Cut *recovery.Point `json:"cut,omitempty"`
	// Compare says that the tables are not to be trusted: compare first.
	Compare bool        `json:"compare,omitempty"`
	Disks   []diskState `json:"disks"`
	// extra are fields of a newer program, which may be ignored and are kept.
	extra durable.Extra
}

// diskState is how far the log of one disk got. Segments of the log are
// numbered; those below Folded are acknowledged and in the table, those below
// Acked are acknowledged, and Spool lists all from Folded on.
type diskState struct {
	Name   string       `json:"name"`
	ID     ident.DiskID `json:"id"`
	Key    uint64       `json:"key"`
	Sum    uint64       `json:"sum"` // of the table: tip and folded segments
	Log    ident.LogID  `json:"log"`
	Folded int          `json:"folded"`
	Acked  int          `json:"acked"`
	Stored int64        `json:"stored"` // bytes of all segments so far
	Spool  []segment    `json:"spool,omitempty"`
}

// segment is one spooled file of a log.
type segment struct {
	Number int    `json:"number"`
	Size   int64  `json:"size"`
	SHA256 []byte `json:"sha256"`
}

// segments returns the number of segments of the log so far.
func (d *diskState) segments() int { return d.Folded + len(d.Spool) }

// staged reports whether any segment of a log under way exists.
func (j *journal) staged() bool {
	for i := range j.Disks {
		if j.Disks[i].segments() > 0 {
			return true
		}
	}
	return false
}

// restart forgets the logs under way and names new ones. The files of the old
// ones are garbage from then on.
func (j *journal) restart() {
	j.Cut, j.Next = nil, ident.NewPointID()
	for i := range j.Disks {
		d := &j.Disks[i]
		d.Log, d.Folded, d.Acked, d.Stored, d.Spool = ident.NewLogID(), 0, 0, 0, nil
	}
}

// decodeJournal reads journal.json. fault.Corrupt: not a journal;
// fault.Refused: a newer program wrote it, the file stays as it is.
func decodeJournal(name string, b []byte) (*journal, error) {
	b, err := journalFormat.Upgrade(name, b)
	if err != nil {
		return nil, err
	}
	var j journal
	if err = json.Unmarshal(b, &j); err == nil {
		j.extra, err = durable.Unknown(b, j)
	}
	if err != nil {
		return nil, corrupt(name, "%v", err)
	}
	if err := j.check(); err != nil {
		return nil, corrupt(name, "%v", err)
	}
	return &j, nil
}

func corrupt(name, format string, args ...any) error {
	e := fault.Errorf(fault.Corrupt, "cannot read %s: %s", name, fmt.Sprintf(format, args...))
	return e.WithHint("move the folder %s away: the source starts again by comparing with the target", filepath.Dir(name))
}

// check refuses a journal that this program cannot have written.
func (j *journal) check() error {
	if err := ident.CheckName(j.Machine); err != nil {
		return fmt.Errorf("machine: %w", err)
	}
	if j.Next.IsZero() {
		return errors.New("the next point has no id")
	}
	seen := map[string]bool{}
	for i := range j.Disks {
		d := &j.Disks[i]
		if err := d.check(); err != nil {
			return fmt.Errorf("disk %q: %w", d.Name, err)
		}
		if seen[d.Name] {
			return fmt.Errorf("disk %q is listed twice", d.Name)
		}
		seen[d.Name] = true
		if j.Cut == nil {
			continue
		}
		pd, ok := j.Cut.Disk(d.Name)
		if !ok || pd.Log != d.Log || pd.Segments != d.segments() || pd.Size < 0 || pd.Size > blocksum.MaxSize {
			return fmt.Errorf("disk %q does not agree with the cut", d.Name)
		}
	}
	if j.Cut != nil && (j.Cut.ID != j.Next || len(j.Cut.Disks) != len(j.Disks)) {
		return errors.New("the cut is not the next point")
	}
	return nil
}

func (d *diskState) check() error {
	if err := ident.CheckName(d.Name); err != nil {
		return err
	}
	n := d.segments()
	if d.Log.IsZero() || d.Folded < 0 || d.Acked < d.Folded || d.Acked > n || n > maxSegments {
		return fmt.Errorf("%d folded, %d acknowledged of %d segments", d.Folded, d.Acked, n)
	}
	for i, s := range d.Spool {
		if s.Number != d.Folded+i || s.Size <= 0 || len(s.SHA256) != 32 {
			return fmt.Errorf("segment %d is listed wrongly", d.Folded+i)
		}
	}
	return nil
}

// readJournal returns nil without an error where there is none.
func readJournal(fsys vfs.FS, name string) (*journal, error) {
	info, err := fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && info.Size() > maxJournal {
		return nil, corrupt(name, "it is %d bytes long", info.Size())
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	b, err := vfs.ReadFile(fsys, name)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	if b, err = journalFormat.Admit(fsys, name, b); err != nil {
		return nil, err
	}
	return decodeJournal(name, b)
}

// write replaces journal.json durably.
func (j *journal) write(fsys vfs.FS, name string) error {
	var text bytes.Buffer
	b, err := durable.Marshal(*j, j.extra)
	if err == nil {
		err = json.Indent(&text, b, "", "  ")
	}
	if err == nil {
		err = vfs.WriteFile(fsys, name, append(text.Bytes(), '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return nil
}
