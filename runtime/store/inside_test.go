package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"

	"github.com/drrun/drrun/internal/fault"
)

// FuzzDecodeValue: whatever stands in the file is a value or an error, and a
// value that was accepted is written the same again.
func FuzzDecodeValue(f *testing.F) {
	f.Add("run/r1/j/0000000000000001", encodeValue(KV{Key: "run/r1/j/0000000000000001", Value: []byte("{}"), CreateRev: 1, ModRev: 7}))
	f.Add("k", encodeValue(KV{Key: "k"}))
	f.Add("k", encodeValue(KV{Key: "other", Value: []byte("v"), CreateRev: 1, ModRev: 1}))
	f.Add("", []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, key string, raw []byte) {
		kv, err := decodeValue(key, raw)
		if err == nil && !bytes.Equal(encodeValue(kv), raw) {
			t.Fatalf("%x became %x", raw, encodeValue(kv))
		}
	})
}

func TestValueOfAnotherKeyIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := decodeValue("k", encodeValue(KV{Key: "other", Value: []byte("v")})); err == nil {
		t.Error("a value that was moved to another key is accepted")
	}
}

func TestKindOfAFailedWrite(t *testing.T) {
	t.Parallel()
	for want, err := range map[fault.Kind]error{
		fault.NoSpace: &os.PathError{Op: "write", Path: "state.db", Err: syscall.ENOSPC},
		fault.Failed:  fmt.Errorf("sync: %w", syscall.EIO),
		fault.Corrupt: fault.Errorf(fault.Corrupt, "page 7"),
	} {
		if got := writeKind(err); got != want {
			t.Errorf("%v: kind %v, want %v", err, got, want)
		}
	}
}

// TestHistoryIsBoundedInBytes: large values do not pile up for watches; the
// newest revision can always be read.
func TestHistoryIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	h := newHistory(0)
	value := make([]byte, 1<<20)
	for rev := range int64(200) {
		h.publish(rev+1, []Op{{Key: "a", Value: value}, {Key: "b", Value: value}})
		if h.bytes > HistoryBytes+HistoryBytes/4+2*len(value) {
			t.Fatalf("%d bytes are kept", h.bytes)
		}
		if evs, _, _, err := h.since(rev + 1); err != nil || len(evs) != 2 {
			t.Fatalf("revision %d: %d events, %v", rev+1, len(evs), err)
		}
	}
	if evs, _, _, err := h.since(h.first); err != nil || evs[0].Rev != h.first || len(evs)%2 != 0 {
		t.Errorf("oldest revision %d: %v", h.first, err)
	}
	if _, _, _, err := h.since(h.first - 1); !errors.Is(err, ErrCompacted) {
		t.Errorf("before it: %v", err)
	}
	h.publish(201, []Op{{Key: "a", Value: make([]byte, 2*HistoryBytes)}})
	if evs, _, _, err := h.since(201); err != nil || len(evs) != 1 {
		t.Errorf("one large revision: %d events, %v", len(evs), err)
	}
}

func TestMemoryGivesBackWhatIsOverwritten(t *testing.T) {
	m, want := NewMemory(), map[string]string{}
	r := rand.New(rand.NewPCG(7, 7))
	for range 4000 {
		key := fmt.Sprintf("k%02d", r.IntN(60))
		op := Op{Key: key, Delete: r.IntN(5) == 0}
		if op.Delete {
			delete(want, key)
		} else {
			op.Value = bytes.Repeat([]byte{byte(r.IntN(256))}, r.IntN(40<<10))
			want[key] = string(op.Value)
		}
		if _, ok, err := m.Txn(t.Context(), Txn{Then: []Op{op}}); err != nil || !ok {
			t.Fatal(ok, err)
		}
	}
	got, held := map[string]string{}, 0
	for kv, err := range m.List(t.Context(), "k") {
		if err != nil {
			t.Fatal(err)
		}
		got[kv.Key] = string(kv.Value)
	}
	if !maps.Equal(got, want) {
		t.Errorf("%d keys of %d", len(got), len(want))
	}
	for _, b := range m.blocks {
		held += cap(b)
	}
	if limit := 2*m.live + 6*blockSize; held > limit {
		t.Errorf("%d bytes are held for %d", held, m.live)
	}
}
