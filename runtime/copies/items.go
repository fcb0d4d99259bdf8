// Package copies keeps copies of the control state (estate, plans, runs, the
// fencing number) in the catalogues of agents, says when agents hold something
// newer than this state, and takes the newest back: drrun recover.
//
// It copies values as they stand in the store and decides nothing about runs. A
// Keeper is safe for concurrent use.
package copies

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/store"
)

// Names of items; runs and blobs have one each.
const (
	itemEstate = "estate"
	itemCA     = "ca"
	itemRun    = "run/"  // + run
	itemBlob   = "blob/" // + SHA-256
)

// KeepEnded is how many ended runs are copied, the newest.
const KeepEnded = 200

// Keys of this package in the store. All values are JSON.
const (
	keySerial = "copies/estate" // serials
	keyMark   = "copies/mark"   // Mark
	keyPlaces = "copies/places" // Places
)

// serials number the states of the estate, since its revision does not count
// what unprotect and plans change.
type serials struct {
	Serial uint64 `json:"serial"`
	// Log holds the hashes of the newest states, that of Serial last: an agent
	// that holds another hash for a number has it from another history.
	Log []string `json:"log"`
}

const keepSerials = 256

// hashOf returns the hash of a state; "": it is not known any more.
func (s *serials) hashOf(serial uint64) string {
	back := s.Serial - serial
	if serial > s.Serial || back >= uint64(len(s.Log)) {
		return ""
	}
	return s.Log[uint64(len(s.Log))-1-back]
}

// document is the content of the items estate and run: values of the store as
// they are.
type document struct {
	Version int      `json:"version"`
	Must    []string `json:"must"`
	May     []string `json:"may"`
	KVs     []kv     `json:"kvs"`
}

type kv struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

const documentVersion = 1

func encodeDocument(kvs []kv) ([]byte, error) {
	raw, err := json.Marshal(document{Version: documentVersion, Must: []string{}, May: []string{}, KVs: kvs})
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "cannot encode a copy of the state: %w", err)
	}
	return raw, nil
}

// decodeDocument reads the content of an item. fault.Refused: a newer drrun
// wrote it; fault.Corrupt: it is damaged.
func decodeDocument(raw []byte) ([]kv, error) {
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, fault.Errorf(fault.Corrupt, "cannot read a copy of the state: %w", err)
	}
	if d.Version > documentVersion || len(d.Must) > 0 {
		return nil, fault.Errorf(fault.Refused, "the copy has version %d with features %q, this drrun knows %d", d.Version, d.Must, documentVersion).
			WithHint("use the drrun that wrote it, or a newer one")
	}
	seen := map[string]bool{}
	for _, e := range d.KVs {
		if d.Version < 1 || e.Key == "" || len(e.Key) > store.MaxKey || len(e.Value) > store.MaxValue || seen[e.Key] {
			return nil, fault.Errorf(fault.Corrupt, "the copy of the state has a malformed entry %q", e.Key)
		}
		seen[e.Key] = true
	}
	return d.KVs, nil
}

// decodeEstate reads the item estate: nothing but keys of the estate.
func decodeEstate(raw []byte) ([]kv, error) {
	kvs, err := decodeDocument(raw)
	if err != nil {
		return nil, err
	}
	for _, e := range kvs {
		if !strings.HasPrefix(e.Key, estate.Prefix) || !json.Valid(e.Value) {
			return nil, fault.Errorf(fault.Corrupt, "the copy of the estate holds %q", e.Key)
		}
	}
	return kvs, nil
}

// decodeRun reads the item of a run: its head and its whole journal up to the
// item's version.
func decodeRun(it command.CatalogueItem, raw []byte) (head, []kv, []journal.Record, error) {
	fail := func(err error) (head, []kv, []journal.Record, error) {
		return head{}, nil, nil, fault.Errorf(fault.KindOf(err), "the copy of %s: %w", it.Name, err)
	}
	kvs, err := decodeDocument(raw)
	if err != nil {
		return fail(err)
	}
	id := strings.TrimPrefix(it.Name, itemRun)
	if len(kvs) < 2 || kvs[0].Key != journal.HeadPrefix+id || uint64(len(kvs)-1) != it.Version {
		return fail(fault.Errorf(fault.Corrupt, "it has no head, or not the records it says"))
	}
	head, err := readHead(kvs[0].Value)
	if err != nil {
		return fail(err)
	}
	if head.ID != id || ident.CheckName(id) != nil {
		return fail(fault.Errorf(fault.Corrupt, "its head is that of run %s", head.ID))
	}
	records := make([]journal.Record, 0, len(kvs)-1)
	for i, e := range kvs[1:] {
		r, err := journal.Decode(e.Value)
		if err != nil {
			return fail(err)
		}
		if e.Key != journal.Key(id, uint64(i)+1) || r.Seq != uint64(i)+1 {
			return fail(fault.Errorf(fault.Corrupt, "record %d is missing", i+1))
		}
		records = append(records, r)
	}
	if it.Mark != markOf(kvs[len(kvs)-1].Value) {
		return fail(fault.Errorf(fault.Corrupt, "its last record is not the one its mark names"))
	}
	return head, kvs, records, nil
}

// markOf tells two records of one number apart.
func markOf(record []byte) string {
	sum := sha256.Sum256(record)
	return hex.EncodeToString(sum[:16])
}

// wanted is one item that agents are to have.
type wanted struct {
	command.CatalogueItem        // Size, SHA256 and Fence are filled in when it is sent
	busy                  bool   // a run under way: its copy may lag
	data                  []byte // nil: read when it is sent
}

// fenceOf reads the highest fencing number that this state knows.
func fenceOf(ctx context.Context, s store.Store) (ident.Fence, error) {
	var f ident.Fence
	err := getJSON(ctx, s, journal.FenceKey, &f)
	return f, err
}

// getJSON reads a value; one that is absent leaves v as it is.
func getJSON(ctx context.Context, s store.Store, key string, v any) error {
	kv, err := s.Get(ctx, key)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err == nil {
		if err = json.Unmarshal(kv.Value, v); err != nil {
			err = fault.Errorf(fault.Corrupt, "cannot read %s in the state: %w", key, err)
		}
	}
	return err
}

func jsonOp(key string, v any) (store.Op, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return store.Op{}, fault.Errorf(fault.Internal, "cannot write %s: %w", key, err)
	}
	return store.Op{Key: key, Value: raw}, nil
}

func putJSON(ctx context.Context, s store.Store, key string, v any) error {
	op, err := jsonOp(key, v)
	if err != nil {
		return err
	}
	_, _, err = s.Txn(ctx, store.Txn{Then: []store.Op{op}})
	return err
}

// estateContent is the item estate as the store has it now; nil: nothing is
// applied. Of what is known of hosts it holds what cannot be found out again.
func estateContent(ctx context.Context, s store.Store) ([]byte, error) {
	var kvs []kv
	applied := false
	for e, err := range s.List(ctx, estate.Prefix) {
		if err != nil {
			return nil, err
		}
		value := e.Value
		if strings.HasPrefix(e.Key, estate.HostPrefix) {
			if value, err = estate.LastingHost(value); err != nil {
				return nil, fmt.Errorf("cannot read %s in the state: %w", e.Key, err)
			}
			if value == nil {
				continue
			}
		}
		applied = applied || e.Key == estate.CurrentKey
		kvs = append(kvs, kv{e.Key, value})
	}
	if !applied {
		return nil, nil
	}
	return encodeDocument(kvs)
}

// number gives the estate's state its number, a new one if it has changed.
func number(ctx context.Context, s store.Store, content []byte) (serials, error) {
	sum := sha256.Sum256(content)
	hash := hex.EncodeToString(sum[:])
	for {
		var n serials
		old, err := s.Get(ctx, keySerial)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return n, err
		}
		if err == nil {
			if err := json.Unmarshal(old.Value, &n); err != nil {
				return n, fault.Errorf(fault.Corrupt, "cannot read %s in the state: %w", keySerial, err)
			}
		}
		if n.hashOf(n.Serial) == hash {
			return n, nil
		}
		n.Serial++
		n.Log = append(n.Log, hash)
		n.Log = n.Log[max(0, len(n.Log)-keepSerials):]
		op, err := jsonOp(keySerial, n)
		if err != nil {
			return n, err
		}
		_, ok, err := s.Txn(ctx, store.Txn{If: []store.Cmp{{Key: keySerial, ModRev: old.ModRev}}, Then: []store.Op{op}})
		if err != nil || ok {
			return n, err
		}
	}
}

// heads lists the runs that are copied: all that have not ended and the newest
// KeepEnded of the others.
func heads(ctx context.Context, s store.Store) (kept []head, err error) {
	for e, err := range s.List(ctx, journal.HeadPrefix) {
		if err != nil {
			return nil, err
		}
		h, err := readHead(e.Value)
		if err != nil {
			return nil, err
		}
		kept = append(kept, h)
	}
	sort.SliceStable(kept, func(i, j int) bool { return kept[i].Created.After(kept[j].Created) })
	ended := 0
	kept = slices.DeleteFunc(kept, func(h head) bool {
		if h.ended() {
			ended++
		}
		return h.ended() && ended > KeepEnded
	})
	return kept, nil
}

// lastRecord finds the newest record of a run without reading the others; 0:
// there is none. Records are never taken away from the end.
func lastRecord(ctx context.Context, s store.Store, id string) (uint64, []byte, error) {
	get := func(seq uint64) ([]byte, error) {
		e, err := s.Get(ctx, journal.Key(id, seq))
		if fault.Is(err, fault.NotFound) {
			return nil, nil
		}
		return e.Value, err
	}
	var last []byte
	have, none := uint64(0), uint64(1)
	for {
		v, err := get(none)
		if err != nil {
			return 0, nil, err
		}
		if v == nil {
			break
		}
		have, last, none = none, v, none*2
	}
	for none-have > 1 {
		mid := have + (none-have)/2
		v, err := get(mid)
		if err != nil {
			return 0, nil, err
		}
		if v == nil {
			none = mid
		} else {
			have, last = mid, v
		}
	}
	return have, last, nil
}

// runContent is the item of a run as it stands: its head and all its records,
// the last of which gives version and mark.
func runContent(ctx context.Context, s store.Store, id string) (data []byte, version uint64, mark string, err error) {
	for {
		h, err := s.Get(ctx, journal.HeadPrefix+id)
		if err != nil {
			return nil, 0, "", err
		}
		kvs := []kv{{h.Key, h.Value}}
		for e, err := range s.List(ctx, journal.Prefix(id)) {
			if err != nil {
				return nil, 0, "", err
			}
			kvs = append(kvs, kv{e.Key, e.Value})
		}
		again, err := s.Get(ctx, journal.HeadPrefix+id)
		if err != nil {
			return nil, 0, "", err
		}
		if again.ModRev != h.ModRev { // a record came between that changed the head
			continue
		}
		if len(kvs) < 2 {
			return nil, 0, "", fault.Errorf(fault.Corrupt, "run %s has no journal", id)
		}
		data, err = encodeDocument(kvs)
		return data, uint64(len(kvs) - 1), markOf(kvs[len(kvs)-1].Value), err
	}
}

// blobsOf names the sources that a run was started with.
func blobsOf(ctx context.Context, s store.Store, id string) ([]string, error) {
	e, err := s.Get(ctx, journal.Key(id, 1))
	if err != nil {
		return nil, err
	}
	r, err := journal.Decode(e.Value)
	if err != nil {
		return nil, err
	}
	return sourcesOf(r)
}

// describe fills in what is known of the content.
func (w *wanted) describe(data []byte, fence ident.Fence) command.CatalogueItem {
	it := w.CatalogueItem
	sum := sha256.Sum256(data)
	it.Size, it.SHA256, it.Fence = int64(len(data)), sum[:], fence
	return it
}

// has reports whether an agent's item is the wanted one.
func (w *wanted) has(it command.CatalogueItem) bool {
	return it.Fault == "" && it.Version == w.Version && it.Mark == w.Mark && (w.data == nil || bytes.Equal(it.SHA256, w.describe(w.data, 0).SHA256))
}
