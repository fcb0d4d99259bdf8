package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport"
	"github.com/drrun/drrun/transport/rpc"
)

// Bounds of the catalogue at one agent. The runtime keeps it far below.
const (
	maxItem      = 64 << 20  // bytes of one item
	maxCatalogue = 512 << 20 // bytes of all items
	maxItems     = 4096
)

// catalogue is the copy of the runtime's state that this agent keeps, one file
// an item, in AGENT/catalogue/. Safe for concurrent use.
type catalogue struct {
	fsys vfs.FS
	dir  string

	mu     sync.Mutex
	loaded bool
	items  map[string]command.CatalogueItem
	bytes  int64
	// part is the item whose pieces are coming in: one at a time, a runtime that
	// begins another one gives it up.
	part command.CatalogueItem
	got  bytes.Buffer
}

func newCatalogue(fsys vfs.FS, state string) *catalogue {
	return &catalogue{fsys: fsys, dir: filepath.Join(state, "catalogue")}
}

var itemName = regexp.MustCompile(`^[a-z]{1,16}(/[A-Za-z0-9][A-Za-z0-9._-]{0,150})?$`)

const itemSuffix = ".item"

func (c *catalogue) file(name string) string {
	return filepath.Join(c.dir, strings.Replace(name, "/", "~", 1)+itemSuffix)
}

// load reads what there is, once. An item that cannot be read stays listed with
// what is wrong with it. Callers hold c.mu.
func (c *catalogue) load() error {
	if c.loaded {
		return nil
	}
	items, size := map[string]command.CatalogueItem{}, int64(0)
	entries, err := c.fsys.ReadDir(c.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot list the catalogue: %w", err)
	}
	for _, e := range entries {
		base, ok := strings.CutSuffix(e.Name(), itemSuffix)
		name := strings.Replace(base, "~", "/", 1)
		if !ok || !itemName.MatchString(name) {
			continue // what a crash left, or not ours
		}
		it, data, err := c.read(name)
		if err != nil {
			it = command.CatalogueItem{Name: name, Fault: err.Error()}
		}
		items[name] = it
		size += int64(len(data))
	}
	c.items, c.bytes, c.loaded = items, size, true
	return nil
}

// read reads and checks the file of an item.
func (c *catalogue) read(name string) (command.CatalogueItem, []byte, error) {
	b, err := vfs.ReadFile(c.fsys, c.file(name))
	if err != nil {
		return command.CatalogueItem{}, nil, fmt.Errorf("cannot read item %s of the catalogue: %w", name, err)
	}
	it, data, err := decodeItem(b)
	if err == nil && it.Name != name {
		err = fault.Errorf(fault.Corrupt, "it holds item %s", it.Name)
	}
	if err != nil {
		return command.CatalogueItem{}, nil, fault.Errorf(fault.KindOf(err), "cannot read item %s of the catalogue: %w", name, err)
	}
	return it, data, nil
}

// An item's file: 8 bytes of magic; length of the header, 4 bytes little-endian;
// the header, JSON; the content; SHA-256 of all before it.
const itemMagic = "drrunCT1"

// itemVersion is the version of the file.
const itemVersion = 1

// itemHeader opens the file. An agent that does not know a word of Must leaves
// the item alone; words of May are ignored.
type itemHeader struct {
	Version int                   `json:"version"`
	Must    []string              `json:"must"`
	May     []string              `json:"may"`
	Item    command.CatalogueItem `json:"item"`
}

func encodeItem(it command.CatalogueItem, data []byte) ([]byte, error) {
	h, err := json.Marshal(itemHeader{Version: itemVersion, Must: []string{}, May: []string{}, Item: it})
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "cannot encode item %s of the catalogue: %w", it.Name, err)
	}
	out := make([]byte, 0, len(itemMagic)+4+len(h)+len(data)+sha256.Size)
	out = append(out, itemMagic...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(h))) //nolint:gosec // a header is short
	out = append(append(out, h...), data...)
	sum := sha256.Sum256(out)
	return append(out, sum[:]...), nil
}

// decodeItem reads an item's file. fault.Refused: a newer agent wrote it;
// fault.Corrupt: it is damaged.
func decodeItem(b []byte) (command.CatalogueItem, []byte, error) {
	bad := func(what string) (command.CatalogueItem, []byte, error) {
		return command.CatalogueItem{}, nil, fault.Errorf(fault.Corrupt, "%s", what)
	}
	head := len(itemMagic) + 4
	if len(b) < head+sha256.Size || string(b[:len(itemMagic)]) != itemMagic {
		return bad("it is not a catalogue's file")
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return bad("it fails its checksum")
	}
	n := int64(binary.LittleEndian.Uint32(b[len(itemMagic):]))
	if n > int64(len(body)-head) {
		return bad("its header is longer than the file")
	}
	var h itemHeader
	if err := json.Unmarshal(body[head:head+int(n)], &h); err != nil {
		return bad("its header cannot be read: " + err.Error())
	}
	if h.Version > itemVersion || len(h.Must) > 0 {
		return command.CatalogueItem{}, nil, fault.Errorf(fault.Refused, "version %d with features %q is not known (this agent knows %d)",
			h.Version, h.Must, itemVersion).WithHint("use the drrun-agent that wrote it, or a newer one; nothing was changed")
	}
	data := body[head+int(n):]
	if err := checkItem(&h.Item); err != nil || h.Version < 1 {
		return bad("its header names no item")
	}
	if got := sha256.Sum256(data); h.Item.Size != int64(len(data)) || !bytes.Equal(got[:], h.Item.SHA256) {
		return bad("its content is not what its header says")
	}
	return h.Item, data, nil
}

// checkItem refuses what cannot be kept.
func checkItem(it *command.CatalogueItem) error {
	switch {
	case !itemName.MatchString(it.Name):
		return fault.Errorf(fault.Invalid, "%q cannot name an item of the catalogue", it.Name)
	case it.Size < 0 || it.Size > maxItem:
		return fault.Errorf(fault.Invalid, "item %s of the catalogue has %d bytes, the limit is %d", it.Name, it.Size, maxItem)
	case len(it.SHA256) != sha256.Size || it.Version == 0 || it.Fault != "" || len(it.Mark) > 128:
		return fault.Errorf(fault.Invalid, "item %s of the catalogue has no version or no checksum", it.Name)
	}
	return nil
}

// list returns the items in order of their names.
func (c *catalogue) list() ([]command.CatalogueItem, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil {
		return nil, err
	}
	out := make([]command.CatalogueItem, 0, len(c.items))
	for _, name := range slices.Sorted(maps.Keys(c.items)) {
		out = append(out, c.items[name])
	}
	return out, nil
}

// fence is the number of the item fence.
func (c *catalogue) fence() (ident.Fence, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.load()
	return ident.Fence(c.items[command.CatalogueFence].Version), err
}

// put takes one piece in; seen is the highest fencing number this host knows.
func (c *catalogue) put(in command.CataloguePutRequest, seen ident.Fence) error {
	if err := checkItem(&in.Item); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil {
		return err
	}
	seen = max(seen, ident.Fence(c.items[command.CatalogueFence].Version)) // another put may have come between
	have, known := c.items[in.Item.Name]
	if done, err := c.mayPut(in, have, known, seen); err != nil || done {
		return err
	}
	if in.Offset == 0 {
		c.part = in.Item
		c.got.Reset()
	}
	if c.part.Name != in.Item.Name || !bytes.Equal(c.part.SHA256, in.Item.SHA256) || in.Offset != int64(c.got.Len()) {
		return fault.Errorf(fault.Unreachable, "item %s of the catalogue: this piece does not follow the last one", in.Item.Name).
			WithHint("it is sent again from its beginning")
	}
	if in.Offset+int64(len(in.Data)) > in.Item.Size {
		return fault.Errorf(fault.Invalid, "item %s of the catalogue: more than its %d bytes", in.Item.Name, in.Item.Size)
	}
	c.got.Write(in.Data)
	if int64(c.got.Len()) < in.Item.Size {
		return nil
	}
	data := bytes.Clone(c.got.Bytes())
	c.part, c.got = command.CatalogueItem{}, bytes.Buffer{}
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:], in.Item.SHA256) {
		return fault.Errorf(fault.Corrupt, "item %s of the catalogue arrived damaged", in.Item.Name)
	}
	return c.store(in.Item, data, have.Size)
}

// mayPut says whether an item may be stored; done: it is there already.
func (c *catalogue) mayPut(in command.CataloguePutRequest, have command.CatalogueItem, known bool, seen ident.Fence) (done bool, err error) {
	if in.Item.Fence < seen {
		return false, olderRuntime(in.Item.Fence, seen)
	}
	if !known || have.Fault != "" {
		if err := c.replaceable(in.Item.Name, have); err != nil {
			return false, err
		}
		if !known && len(c.items) >= maxItems || c.bytes+in.Item.Size > maxCatalogue {
			return false, fault.Errorf(fault.NoSpace, "the catalogue at this host has %d items of %d bytes together; no more are kept", len(c.items), c.bytes)
		}
		return false, nil
	}
	same := bytes.Equal(have.SHA256, in.Item.SHA256)
	switch {
	case in.Replace && in.Item.Fence > have.Fence && !same:
		return false, nil
	case in.Item.Version > have.Version:
		return false, nil
	case in.Item.Version == have.Version && same:
		return true, nil
	}
	return false, fault.Errorf(fault.Conflict, "item %s of the catalogue: version %d is in force, %d is older or another one",
		in.Item.Name, have.Version, in.Item.Version).WithHint("this runtime has old state: drrun recover")
}

// replaceable refuses to write over what a newer agent stored; what is damaged
// may be replaced.
func (c *catalogue) replaceable(name string, have command.CatalogueItem) error {
	if have.Fault == "" {
		return nil
	}
	if _, _, err := c.read(name); fault.Is(err, fault.Refused) {
		return err
	}
	return nil
}

func olderRuntime(have, seen ident.Fence) error {
	return fault.Errorf(fault.Conflict, "the catalogue: this runtime's fencing number is %d, this host has seen %d", have, seen).
		WithHint("this runtime has old state: drrun recover")
}

// store makes an item durable. Callers hold c.mu.
func (c *catalogue) store(it command.CatalogueItem, data []byte, was int64) error {
	b, err := encodeItem(it, data)
	if err != nil {
		return err
	}
	if err := c.fsys.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the catalogue's folder: %w", err)
	}
	if err := vfs.WriteFile(c.fsys, c.file(it.Name), b, 0o600); err != nil {
		return fmt.Errorf("cannot store item %s of the catalogue: %w", it.Name, err)
	}
	c.items[it.Name] = it
	c.bytes += it.Size - was
	return nil
}

// get returns a piece of an item.
func (c *catalogue) get(in command.CatalogueGetRequest) (command.CatalogueGetResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil {
		return command.CatalogueGetResult{}, err
	}
	if _, known := c.items[in.Name]; !known {
		return command.CatalogueGetResult{}, fault.Errorf(fault.NotFound, "the catalogue has no item %q", in.Name)
	}
	it, data, err := c.read(in.Name)
	if err != nil {
		return command.CatalogueGetResult{}, err
	}
	if in.Offset < 0 || in.Offset > int64(len(data)) {
		return command.CatalogueGetResult{}, fault.Errorf(fault.Invalid, "item %s of the catalogue has no byte %d", in.Name, in.Offset)
	}
	data = data[in.Offset:]
	return command.CatalogueGetResult{Item: it, Data: data[:min(len(data), command.CataloguePiece)]}, nil
}

// drop forgets items; the fencing number stays.
func (c *catalogue) drop(in command.CatalogueDropRequest, seen ident.Fence) error {
	if in.Fence < seen {
		return olderRuntime(in.Fence, seen)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(); err != nil {
		return err
	}
	for _, name := range in.Names {
		it, known := c.items[name]
		if !known || name == command.CatalogueFence {
			continue
		}
		if err := c.replaceable(name, it); err != nil {
			return err
		}
		if err := c.fsys.Remove(c.file(name)); err != nil {
			return fmt.Errorf("cannot drop item %s of the catalogue: %w", name, err)
		}
		delete(c.items, name)
		c.bytes -= it.Size
	}
	return nil
}

// seenFence is the highest fencing number that this host has seen.
func (a *Agent) seenFence() (ident.Fence, error) {
	seen, err := a.catalogue.fence()
	for _, m := range a.all() {
		seen = max(seen, m.snapshot().Fence)
	}
	return seen, err
}

// catalogueVerbs registers what a runtime asks of its catalogue.
func (a *Agent) catalogueVerbs(mux *rpc.Mux) {
	rpc.Handle(mux, command.CatalogueList.Name, func(_ context.Context, p transport.Peer, _ command.CatalogueListRequest) (res command.CatalogueListResult, err error) {
		if err := a.fromRuntime(p); err != nil {
			return res, err
		}
		if res.Fence, err = a.seenFence(); err != nil {
			return res, err
		}
		res.Items, err = a.catalogue.list()
		return res, err
	})
	rpc.Handle(mux, command.CataloguePut.Name, func(_ context.Context, p transport.Peer, in command.CataloguePutRequest) (none command.Empty, err error) {
		if err := a.fromRuntime(p); err != nil {
			return none, err
		}
		seen, err := a.seenFence()
		if err != nil {
			return none, err
		}
		return none, a.catalogue.put(in, seen)
	})
	rpc.Handle(mux, command.CatalogueGet.Name, func(_ context.Context, p transport.Peer, in command.CatalogueGetRequest) (command.CatalogueGetResult, error) {
		if err := a.fromRuntime(p); err != nil {
			return command.CatalogueGetResult{}, err
		}
		return a.catalogue.get(in)
	})
	rpc.Handle(mux, command.CatalogueDrop.Name, func(_ context.Context, p transport.Peer, in command.CatalogueDropRequest) (none command.Empty, err error) {
		if err := a.fromRuntime(p); err != nil {
			return none, err
		}
		seen, err := a.seenFence()
		if err != nil {
			return none, err
		}
		return none, a.catalogue.drop(in, seen)
	})
}
