package store

import (
	"encoding/json"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/drrun/drrun/internal/vfs"
)

// keepCopy puts the file as it was found beside it, under FileName.vVERSION,
// whole and durable, before anything of it changes.
func (b *Bolt) keepCopy(fsys vfs.FS, ro *bbolt.DB) error {
	name := fmt.Sprintf("%s.v%d", b.path, b.from)
	tmp := name + vfs.TempSuffix
	f, err := fsys.OpenFile(tmp, vfs.CreateTrunc, 0o600)
	if err != nil {
		return fmt.Errorf("cannot keep a copy of the state of version %d: %w", b.from, err)
	}
	err = ro.View(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(f)
		return err
	})
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = fsys.Rename(tmp, name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot keep a copy of the state of version %d: %w", b.from, err), fsys.Remove(tmp))
	}
	return nil
}

// migrate takes all steps, writes the new version and looks at the content, in
// one transaction.
func (b *Bolt) migrate() error {
	err := b.db.Update(func(tx *bbolt.Tx) error {
		for v := b.from; v < FormatVersion; v++ {
			if err := steps[v](tx); err != nil {
				return fmt.Errorf("from version %d to %d: %w", v, v+1, err)
			}
		}
		meta := tx.Bucket(bucketMeta)
		var h header
		if err := json.Unmarshal(meta.Get(keyHeader), &h); err != nil {
			return err
		}
		h.Version = FormatVersion
		raw, err := json.Marshal(h)
		if err != nil {
			return err
		}
		if err := meta.Put(keyHeader, raw); err != nil {
			return err
		}
		return b.verifyContent(tx)
	})
	if err != nil {
		return fmt.Errorf("cannot bring the state %s up to date, it is as it was: %w", b.path, err)
	}
	return nil
}
