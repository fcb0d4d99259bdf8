package source

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drrun/drrun/internal/fault"
)

// TestNewerJournalIsLeftAlone refuses journals of newer programs, and damaged
// ones, and touches nothing.
func TestNewerJournalIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(map[string]any){
		"version": func(j map[string]any) { j["version"] = 2 },
		"must":    func(j map[string]any) { j["must"] = []string{"ciphered-spool"} },
		"machine": func(j map[string]any) { j["machine"] = "db2" },
		"damaged": func(j map[string]any) { j["next"] = "" },
	} {
		r := newRig(t)
		r.image(0, 4096, 1)
		r.image(1, 4096, 1)
		r.open()
		r.cycle()
		if err := r.m.Close(); err != nil {
			t.Fatal(err)
		}
		path := r.m.path(journalName)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var j map[string]any
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.UseNumber()
		if err := dec.Decode(&j); err != nil {
			t.Fatal(err)
		}
		change(j)
		if b, err = json.Marshal(j); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		orphan := filepath.Join(r.cfg.Dir, "spool", "orphan.hrl")
		if err := os.WriteFile(orphan, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		want := fault.Refused // of a newer program
		if name == "machine" || name == "damaged" {
			want = fault.Corrupt
		}
		if _, err := Open(r.cfg); !fault.Is(err, want) || name != "machine" && fault.Hint(err) == "" {
			t.Errorf("%s: %v, hint %q", name, err, fault.Hint(err))
		}
		after, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(after, b) {
			t.Errorf("%s: the journal was changed (%v)", name, err)
		}
		if _, err := os.Stat(orphan); err != nil {
			t.Errorf("%s: the spool was touched: %v", name, err)
		}
	}
}

// TestMayFeaturesAreIgnored opens a journal with a feature that may be ignored.
func TestMayFeaturesAreIgnored(t *testing.T) {
	t.Parallel()
	j := goldenJournal(t)
	b := strings.Replace(j, `"version": 1,`, `"version": 1, "may": ["hints"], "hints": {"a": 1},`, 1)
	if _, err := decodeJournal("journal.json", []byte(b)); err != nil {
		t.Error(err)
	}
}

func goldenJournal(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "journal.json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestJournalOfVersionOne reads the journal that version 1 wrote, and writes
// it back as it was: what agents have on disk stays readable.
func TestJournalOfVersionOne(t *testing.T) {
	t.Parallel()
	want := goldenJournal(t)
	j, err := decodeJournal("journal.json", []byte(want))
	if err != nil {
		t.Fatal(err)
	}
	if j.Cut == nil || j.Tip == nil || j.Disks[1].segments() != 3 || j.Disks[1].Acked != 2 {
		t.Fatalf("journal: %+v", j)
	}
	got, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != strings.TrimSpace(want) {
		t.Errorf("written back:\n%s\nwant:\n%s", got, want)
	}
}

func TestJournalRefusesWhatItCannotHaveWritten(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string][2]string{
		"acked beyond":   {`"acked": 2`, `"acked": 4`},
		"folded beyond":  {`"folded": 1`, `"folded": 3`},
		"negative":       {`"folded": 1`, `"folded": -1`},
		"gap":            {`"number": 2`, `"number": 5`},
		"empty segment":  {`"size": 4096`, `"size": 0`},
		"path as a name": {`"name": "ledger"`, `"name": "../x"`},
		"twice":          {`"name": "ledger"`, `"name": "log"`},
		"cut of others":  {`"segments": 3`, `"segments": 2`},
		"two documents":  {"\n}\n", "\n}{}\n"},
		"cut off":        {"\n}\n", "\n"},
	} {
		s := goldenJournal(t)
		bad := strings.ReplaceAll(s, edit[0], edit[1])
		if s == bad {
			t.Fatalf("%s: nothing replaced", name)
		}
		if _, err := decodeJournal("journal.json", []byte(bad)); !fault.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzJournal feeds the decoder anything: it never panics, and what it takes
// can be written and read again.
func FuzzJournal(f *testing.F) {
	f.Add([]byte(goldenJournal(f)))
	f.Add([]byte(`{"version":1,"machine":"db1","next":"000102030405060708090a0b0c0d0e0f","disks":[]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		j, err := decodeJournal("journal.json", b)
		if err != nil {
			if !fault.Is(err, fault.Corrupt) && !fault.Is(err, fault.Refused) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		out, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeJournal("journal.json", out); err != nil {
			t.Fatalf("cannot read again: %v\n%s", err, out)
		}
	})
}
