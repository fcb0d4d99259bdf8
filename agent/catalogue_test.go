package agent_test

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"github.com/drrun/drrun/agent"
	"github.com/drrun/drrun/agent/client"
	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/transport/quicnet"
	"github.com/drrun/drrun/transport/rpc"
)

// item describes content as a runtime with a fencing number puts it.
func item(name string, version uint64, fence ident.Fence, data []byte) command.CatalogueItem {
	sum := sha256.Sum256(data)
	return command.CatalogueItem{Name: name, Version: version, Size: int64(len(data)), SHA256: sum[:], Fence: fence}
}

// putItem puts an item in pieces.
func putItem(p *pair, it command.CatalogueItem, data []byte, replace bool) error {
	for off := int64(0); ; off += command.CataloguePiece {
		in := command.CataloguePutRequest{Item: it, Offset: off, Replace: replace}
		in.Data = data[off:min(int64(len(data)), off+command.CataloguePiece)]
		if _, err := try(p, command.CataloguePut, "par-1", in); err != nil {
			return err
		}
		if off+command.CataloguePiece >= it.Size {
			return nil
		}
	}
}

func getItem(p *pair, name string) []byte {
	p.t.Helper()
	var out []byte
	for {
		res := call(p, command.CatalogueGet, "par-1", command.CatalogueGetRequest{Name: name, Offset: int64(len(out))})
		if out = append(out, res.Data...); int64(len(out)) >= res.Item.Size {
			return out
		}
	}
}

func wantKind(t *testing.T, err error, kind fault.Kind) {
	t.Helper()
	if !fault.Is(err, kind) {
		t.Errorf("%v, want kind %s", err, kind)
	}
}

// TestCatalogueKeepsTheNewest: what a runtime put is there after a restart, and
// no older version, other version or lower fencing number replaces it.
func TestCatalogueKeepsTheNewest(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), (command.CataloguePiece*2+4096)/16)
	must(t, putItem(p, item("fence", 7, 7, nil), nil, false))
	must(t, putItem(p, item("estate", 3, 7, big), big, false))
	must(t, putItem(p, item("run/erp-1", 12, 7, []byte("twelve")), []byte("twelve"), false))

	wantKind(t, putItem(p, item("run/erp-1", 11, 7, []byte("eleven")), []byte("eleven"), false), fault.Conflict)
	wantKind(t, putItem(p, item("run/erp-1", 12, 7, []byte("other")), []byte("other"), false), fault.Conflict)
	wantKind(t, putItem(p, item("run/erp-1", 13, 6, []byte("fenced")), []byte("fenced"), false), fault.Conflict)
	wantKind(t, putItem(p, item("run/erp-1", 12, 7, []byte("other")), []byte("other"), true), fault.Conflict)
	wantKind(t, putItem(p, item("../estate", 13, 7, nil), nil, false), fault.Invalid)
	_, err := try(p, command.CatalogueDrop, "par-1", command.CatalogueDropRequest{Fence: 6, Names: []string{"estate"}})
	wantKind(t, err, fault.Conflict)

	p.a.end()
	p.a.start()
	must(t, p.rt.Drop("par-1"))
	if got := getItem(p, "estate"); !bytes.Equal(got, big) {
		t.Errorf("estate has %d bytes after the restart, want the %d that were put", len(got), len(big))
	}
	if got := getItem(p, "run/erp-1"); string(got) != "twelve" {
		t.Errorf("run/erp-1 holds %q", got)
	}
	must(t, putItem(p, item("fence", 8, 8, nil), nil, false))
	must(t, putItem(p, item("run/erp-1", 12, 8, []byte("recovered")), []byte("recovered"), true))
	if got := getItem(p, "run/erp-1"); string(got) != "recovered" {
		t.Errorf("after a recovery run/erp-1 holds %q", got)
	}
	call(p, command.CatalogueDrop, "par-1", command.CatalogueDropRequest{Fence: 8, Names: []string{"estate", "fence", "nothing"}})
	list := call(p, command.CatalogueList, "par-1", command.CatalogueListRequest{})
	if len(list.Items) != 2 || list.Items[0].Name != "fence" || list.Items[1].Name != "run/erp-1" || list.Fence != 8 {
		t.Errorf("the catalogue is %+v", list)
	}
}

// TestCatalogueDamage: a damaged item is shown as such, not given out, and
// replaced by the next put; one of a newer agent stays untouched.
func TestCatalogueDamage(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	must(t, putItem(p, item("estate", 3, 1, []byte("three")), []byte("three"), false))
	must(t, putItem(p, item("ca", 1, 1, []byte("one")), []byte("one"), false))
	p.a.end()
	name := filepath.Join(p.a.state, "catalogue", "estate.item")
	b, err := os.ReadFile(name)
	must(t, err)
	b[len(b)-40] ^= 1
	must(t, os.WriteFile(name, b, 0o600))
	newer := filepath.Join(p.a.state, "catalogue", "ca.item")
	b, err = os.ReadFile(newer)
	must(t, err)
	body := bytes.Replace(b[:len(b)-sha256.Size], []byte(`"must":[]`), []byte(`"must":["x"]`), 1)
	body[8] += 3 // the header is longer
	sum := sha256.Sum256(body)
	future := append(body, sum[:]...)
	must(t, os.WriteFile(newer, future, 0o600))
	p.a.start()
	must(t, p.rt.Drop("par-1"))

	list := call(p, command.CatalogueList, "par-1", command.CatalogueListRequest{})
	if len(list.Items) != 2 || list.Items[0].Fault == "" || list.Items[1].Fault == "" {
		t.Fatalf("the catalogue is %+v", list)
	}
	_, err = try(p, command.CatalogueGet, "par-1", command.CatalogueGetRequest{Name: "estate"})
	wantKind(t, err, fault.Corrupt)
	must(t, putItem(p, item("estate", 3, 1, []byte("three")), []byte("three"), false))
	if got := getItem(p, "estate"); string(got) != "three" {
		t.Errorf("estate holds %q", got)
	}
	wantKind(t, putItem(p, item("ca", 2, 1, []byte("two")), []byte("two"), false), fault.Refused)
	if b, err := os.ReadFile(newer); err != nil || !bytes.Equal(b, future) {
		t.Errorf("the item of a newer agent was changed (%v)", err)
	}
}

// TestCatalogueIsForRuntimes: a host may neither read nor write it.
func TestCatalogueIsForRuntimes(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	must(t, putItem(p, item("estate", 3, 1, []byte("three")), []byte("three"), false))
	medium := quicnet.New(quicnet.Fixed(p.b.id), quicnet.Options{})
	host := client.New(medium, "acme", func(string) (string, bool) { return p.a.listen, true }, rpc.Options{})
	_, err := command.CatalogueList.Call(t.Context(), host, "par-1", command.CatalogueListRequest{})
	wantKind(t, err, fault.Refused)
	_, err = command.CatalogueGet.Call(t.Context(), host, "par-1", command.CatalogueGetRequest{Name: "estate"})
	wantKind(t, err, fault.Refused)
	_, err = command.CataloguePut.Call(t.Context(), host, "par-1", command.CataloguePutRequest{Item: item("estate", 9, 9, nil)})
	wantKind(t, err, fault.Refused)
	_, err = command.CatalogueDrop.Call(t.Context(), host, "par-1", command.CatalogueDropRequest{Fence: 9, Names: []string{"estate"}})
	wantKind(t, err, fault.Refused)
	must(t, host.Close())
	must(t, medium.Close())
}

func FuzzCatalogueItem(f *testing.F) {
	data := []byte("content")
	good, err := agent.EncodeItem(item("run/erp-1", 3, 2, data), data)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte("drrunCT1\xff\xff\xff\xff{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		it, data, err := agent.DecodeItem(b)
		if err != nil {
			return
		}
		again, err := agent.EncodeItem(it, data)
		if err != nil {
			t.Fatal(err)
		}
		if it2, data2, err := agent.DecodeItem(again); err != nil || it2.Name != it.Name || !bytes.Equal(data, data2) {
			t.Fatalf("%q is read, and not again as it was written: %v", b, err)
		}
	})
}
