package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
)

// Files of a state folder that belong to this package.
const (
	FileName = "state.db"
	LockName = "lock"
)

// FormatVersion is the version of the file: version 1 is a bucket "meta" with
// the key "header" (JSON, see header) and "rev" (8 bytes, big-endian), and a
// bucket "kv" whose values are described at encodeValue.
const FormatVersion = 1

// header names the format. A reader that does not know a word of Must leaves
// the file alone; words of May are ignored.
type header struct {
	Format  string   `json:"format"`
	Version int      `json:"version"`
	Must    []string `json:"must,omitempty"`
	May     []string `json:"may,omitempty"`
}

const formatName = "drrun-state"

var (
	bucketMeta = []byte("meta")
	bucketKV   = []byte("kv")
	keyHeader  = []byte("header")
	keyRev     = []byte("rev")
)

// Bolt is the embedded engine: one file, one process, every transaction
// fsynced before it returns.
type Bolt struct {
	path    string
	release func() error
	hist    *history

	mu     sync.Mutex // one writer; keeps commit order and event order the same
	db     *bbolt.DB
	rev    int64
	from   int // the version of the file as it was found
	broken error
}

// step brings an open transaction from one version of the file to the next,
// all but the header's version.
type step func(tx *bbolt.Tx) error

// steps of older versions, by the version they start from; there are none yet.
var steps = map[int]step{}

var _ Store = (*Bolt)(nil)

// OpenBolt opens the store of a state folder and makes both if need be. The
// folder is locked until Close: fault.Unreachable names who has it. A damaged
// file is fault.Corrupt, one of a newer format fault.Refused, and both stay
// untouched. An older one is brought up to date after a copy of it was made.
func OpenBolt(fsys vfs.FS, dir string) (*Bolt, error) {
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the state folder: %w", err)
	}
	release, err := fsys.Lock(filepath.Join(dir, LockName))
	if errors.Is(err, vfs.ErrLocked) {
		return nil, fault.Errorf(fault.Unreachable, "cannot open the state folder %s: %w", dir, err).
			WithHint("a drrun uses this folder: talk to it (it serves the folder's socket), or choose another folder with --state")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot lock the state folder: %w", err)
	}
	b := &Bolt{path: filepath.Join(dir, FileName), release: release}
	if err := b.open(fsys); err != nil {
		return nil, errors.Join(err, release())
	}
	b.hist = newHistory(b.rev)
	return b, nil
}

func (b *Bolt) open(fsys vfs.FS) error {
	fi, err := fsys.Stat(b.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = create(fsys, b.path)
	case err == nil && fi.Size() == 0: // never ours: create renames a whole file
		return b.corrupt("it is empty")
	}
	if err != nil {
		return fmt.Errorf("cannot open the state: %w", err)
	}
	// First read-only, so that a file that must not be touched is not.
	err = b.guard(func() error {
		ro, err := openDB(b.path, true)
		if err != nil {
			return err
		}
		if err = b.verify(ro); err == nil && b.from != FormatVersion {
			err = b.keepCopy(fsys, ro)
		}
		return errors.Join(err, ro.Close())
	})
	if err != nil {
		return err
	}
	return b.guard(func() (err error) {
		if b.db, err = openDB(b.path, false); err != nil || b.from == FormatVersion {
			return err
		}
		if err = b.migrate(); err != nil {
			err = errors.Join(err, b.db.Close())
		}
		return err
	})
}

func openDB(path string, readOnly bool) (*bbolt.DB, error) {
	return bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType, PreLoadFreelist: true, ReadOnly: readOnly,
	})
}

// create makes the file whole under another name first: state.db is never
// half made.
func create(fsys vfs.FS, path string) error {
	tmp := path + vfs.TempSuffix
	if err := fsys.Remove(tmp); err != nil {
		return err
	}
	db, err := openDB(tmp, false)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucket(bucketMeta)
		if err != nil {
			return err
		}
		if _, err = tx.CreateBucket(bucketKV); err != nil {
			return err
		}
		head, err := json.Marshal(header{Format: formatName, Version: FormatVersion})
		if err != nil {
			return err
		}
		return errors.Join(meta.Put(keyHeader, head), meta.Put(keyRev, make([]byte, 8)))
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	return fsys.Rename(tmp, path)
}

// verify reads the whole file: its header, and the checksum of every value.
func (b *Bolt) verify(db *bbolt.DB) error {
	return db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			return b.corrupt("it is not a drrun state file")
		}
		if err := b.checkHeader(meta.Get(keyHeader)); err != nil || b.from != FormatVersion {
			return err // the content of an older one is looked at when it is brought up
		}
		return b.verifyContent(tx)
	})
}

func (b *Bolt) verifyContent(tx *bbolt.Tx) error {
	meta, kvs := tx.Bucket(bucketMeta), tx.Bucket(bucketKV)
	if meta == nil || kvs == nil {
		return b.corrupt("it is not a drrun state file")
	}
	rev := meta.Get(keyRev)
	if len(rev) != 8 {
		return b.corrupt("its revision is missing")
	}
	b.rev = int64(binary.BigEndian.Uint64(rev)) //nolint:gosec // written from an int64
	return kvs.ForEach(func(k, v []byte) error {
		kv, err := decodeValue(string(k), v)
		if err == nil && (kv.ModRev > b.rev || kv.CreateRev > kv.ModRev) {
			err = fmt.Errorf("key %q is newer than the file", k)
		}
		if err != nil {
			return b.corrupt(err.Error())
		}
		return nil
	})
}

func (b *Bolt) checkHeader(raw []byte) error {
	var h header
	if err := json.Unmarshal(raw, &h); err != nil || h.Format != formatName {
		return b.corrupt("it is not a drrun state file")
	}
	if h.Version > FormatVersion {
		return fault.Errorf(fault.Refused, "cannot open the state %s: its format version is %d, this drrun knows up to %d",
			b.path, h.Version, FormatVersion).WithHint("use the drrun that wrote it, or a newer one; nothing was changed")
	}
	for v := h.Version; v < FormatVersion; v++ {
		if steps[v] == nil {
			return fault.Errorf(fault.Refused, "cannot open the state %s: its format version is %d, which this drrun cannot bring up to %d",
				b.path, h.Version, FormatVersion).WithHint("use the drrun that wrote it, or one in between first; nothing was changed")
		}
	}
	b.from = h.Version
	if len(h.Must) > 0 { // no version knows such words
		return fault.Errorf(fault.Refused, "cannot open the state %s: it needs %s, which this drrun does not know",
			b.path, strings.Join(h.Must, ", ")).WithHint("use the drrun that wrote it, or a newer one; nothing was changed")
	}
	return nil
}

func (b *Bolt) corrupt(what string) error {
	return fault.Errorf(fault.Corrupt, "cannot read the state %s: %s", b.path, what).
		WithHint("keep the file for inspection; restore a copy with: drrun state restore, or rebuild it with: drrun recover")
}

// guard turns what bbolt does with a damaged file (errors, panics, faults on
// mapped memory) into fault.Corrupt.
func (b *Bolt) guard(f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if p := recover(); p != nil {
			err = b.corrupt(fmt.Sprint(p))
		}
	}()
	err = f()
	switch {
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum),
		errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, io.ErrUnexpectedEOF):
		return b.corrupt(err.Error())
	case errors.Is(err, bolterrors.ErrTimeout):
		return fault.Errorf(fault.Unreachable, "cannot open the state %s: another process has it open", b.path).
			WithHint("end the process that has the file open")
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return ErrClosed
	}
	return err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Value format: CRC-32C of all that follows and of the key (4 bytes), creation
// revision (8), modification revision (8), content. Integers are big-endian.
const valueHead = 20

func encodeValue(kv KV) []byte {
	out := make([]byte, valueHead, valueHead+len(kv.Value))
	binary.BigEndian.PutUint64(out[4:], uint64(kv.CreateRev)) //nolint:gosec // never negative
	binary.BigEndian.PutUint64(out[12:], uint64(kv.ModRev))   //nolint:gosec // never negative
	out = append(out, kv.Value...)
	binary.BigEndian.PutUint32(out, valueSum(kv.Key, out))
	return out
}

func valueSum(key string, enc []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, enc[4:])
}

func decodeValue(key string, enc []byte) (KV, error) {
	if len(enc) < valueHead || binary.BigEndian.Uint32(enc) != valueSum(key, enc) {
		return KV{}, fmt.Errorf("the value of %q fails its checksum", key)
	}
	return KV{
		Key:       key,
		CreateRev: int64(binary.BigEndian.Uint64(enc[4:])),  //nolint:gosec // written from an int64
		ModRev:    int64(binary.BigEndian.Uint64(enc[12:])), //nolint:gosec // written from an int64
		Value:     append([]byte{}, enc[valueHead:]...),
	}, nil
}

// Get implements Store.
func (b *Bolt) Get(ctx context.Context, key string) (KV, error) {
	var kv KV
	err := b.view(ctx, func(kvs *bbolt.Bucket) error {
		enc := kvs.Get([]byte(key))
		if enc == nil {
			return notFound(key)
		}
		var err error
		if kv, err = decodeValue(key, enc); err != nil {
			return b.corrupt(err.Error())
		}
		return nil
	})
	return kv, err
}

// List implements Store. It copies before it yields: a read transaction of
// bbolt that stays open makes the file grow.
func (b *Bolt) List(ctx context.Context, prefix string) iter.Seq2[KV, error] {
	return func(yield func(KV, error) bool) {
		var list []KV
		err := b.view(ctx, func(kvs *bbolt.Bucket) error {
			c := kvs.Cursor()
			for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
				kv, err := decodeValue(string(k), v)
				if err != nil {
					return b.corrupt(err.Error())
				}
				list = append(list, kv)
			}
			return nil
		})
		if err != nil {
			yield(KV{}, err)
			return
		}
		for _, kv := range list {
			if !yield(kv, nil) {
				return
			}
		}
	}
}

func (b *Bolt) view(ctx context.Context, f func(*bbolt.Bucket) error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return b.guard(func() error {
		return b.db.View(func(tx *bbolt.Tx) error { return f(tx.Bucket(bucketKV)) })
	})
}

// Txn implements Store.
func (b *Bolt) Txn(ctx context.Context, t Txn) (int64, bool, error) {
	if err := errors.Join(checkTxn(t), context.Cause(ctx)); err != nil {
		return 0, false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken != nil {
		return 0, false, b.broken
	}
	rev, ok := b.rev+1, false
	ops := make([]Op, len(t.Then))
	err := b.guard(func() error {
		return b.db.Update(func(tx *bbolt.Tx) (err error) {
			ok, err = b.apply(tx, t, rev, ops)
			if err == nil && (!ok || len(ops) == 0) {
				return errNoChange // nothing to write, no fsync
			}
			return err
		})
	})
	if errors.Is(err, errNoChange) {
		return b.rev, ok, nil
	}
	if errors.Is(err, ErrClosed) {
		return 0, false, err
	}
	if err != nil {
		b.broken = fault.Errorf(writeKind(err), "cannot write the state %s: %w", b.path, err).
			WithHint("the disk is full or broken: mend it and start drrun again; runs are resumable")
		return 0, false, b.broken
	}
	b.rev = rev
	b.hist.publish(rev, ops)
	return rev, true, nil
}

var errNoChange = errors.New("no change")

// writeKind is the kind of a failed write: a disk that is full or broken is no
// bug of drrun.
func writeKind(err error) fault.Kind {
	switch k := fault.KindOf(err); {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.NoSpace
	case k == fault.Internal:
		return fault.Failed
	default:
		return k
	}
}

func (b *Bolt) apply(tx *bbolt.Tx, t Txn, rev int64, ops []Op) (bool, error) {
	kvs, meta := tx.Bucket(bucketKV), tx.Bucket(bucketMeta)
	for _, c := range t.If {
		mod := int64(0)
		if enc := kvs.Get([]byte(c.Key)); enc != nil {
			kv, err := decodeValue(c.Key, enc)
			if err != nil {
				return false, b.corrupt(err.Error())
			}
			mod = kv.ModRev
		}
		if mod != c.ModRev {
			return false, nil
		}
	}
	for i, op := range t.Then {
		op.Value = append([]byte{}, op.Value...)
		ops[i] = op
		if op.Delete {
			if err := kvs.Delete([]byte(op.Key)); err != nil {
				return false, err
			}
			continue
		}
		kv := KV{Key: op.Key, Value: op.Value, CreateRev: rev, ModRev: rev}
		if enc := kvs.Get([]byte(op.Key)); enc != nil {
			old, err := decodeValue(op.Key, enc)
			if err != nil {
				return false, b.corrupt(err.Error())
			}
			kv.CreateRev = old.CreateRev
		}
		if err := kvs.Put([]byte(op.Key), encodeValue(kv)); err != nil {
			return false, err
		}
	}
	return true, meta.Put(keyRev, binary.BigEndian.AppendUint64(nil, uint64(rev))) //nolint:gosec // never negative
}

// Watch implements Store.
func (b *Bolt) Watch(ctx context.Context, prefix string, fromRev int64) iter.Seq2[Event, error] {
	return b.hist.watch(ctx, prefix, fromRev)
}

// Rev implements Store.
func (b *Bolt) Rev(ctx context.Context) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rev, context.Cause(ctx)
}

// Backup writes a consistent copy of the file to w while the store is in use.
func (b *Bolt) Backup(w io.Writer) error {
	return b.guard(func() error {
		return b.db.View(func(tx *bbolt.Tx) error {
			_, err := tx.WriteTo(w)
			return err
		})
	})
}

// Close implements Store; it frees the state folder.
func (b *Bolt) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.release == nil {
		return nil
	}
	b.hist.close()
	b.broken = ErrClosed
	err := errors.Join(b.db.Close(), b.release())
	b.release = nil
	return err
}
