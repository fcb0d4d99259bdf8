package ident_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/drrun/drrun/internal/ident"
)

func TestIDText(t *testing.T) {
	t.Parallel()
	id := ident.NewPointID()
	if id.IsZero() || id == ident.NewPointID() {
		t.Error("a new id is zero or not new")
	}
	s := id.String()
	if len(s) != 32 || s != strings.ToLower(s) || !strings.HasPrefix(s, id.Short()) || len(id.Short()) != 8 {
		t.Errorf("text %q, short %q", s, id.Short())
	}
	for _, text := range []string{s, strings.ToUpper(s)} {
		if got, err := ident.ParsePointID(text); err != nil || got != id {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	type record struct {
		Point ident.PointID    `json:"point"`
		Disk  ident.DiskID     `json:"disk"`
		By    map[ident.ID]int `json:"by"`
	}
	in := record{Point: id, By: map[ident.ID]int{id.ID: 1}}
	b, err := json.Marshal(in)
	if want := `{"point":"` + s + `","disk":"","by":{"` + s + `":1}}`; err != nil || string(b) != want {
		t.Errorf("%s, %v; want %s", b, err, want)
	}
	var out record
	if err := json.Unmarshal(b, &out); err != nil || out.Point != id || !out.Disk.IsZero() || out.By[id.ID] != 1 {
		t.Errorf("%+v, %v", out, err)
	}
	for _, bad := range []string{"", "00", s[1:], s + "0", "zz" + s[2:]} {
		if got, err := ident.ParseID(bad); err == nil || !got.IsZero() {
			t.Errorf("%q is %v", bad, got)
		}
	}
}

func TestCheckName(t *testing.T) {
	t.Parallel()
	for _, ok := range []string{"a", "0", "erp-db.1_x", strings.Repeat("n", ident.MaxName)} {
		if err := ident.CheckName(ok); err != nil {
			t.Error(err)
		}
	}
	for bad, text := range map[string]string{
		"": "missing", ".": "not allowed", "..": "not allowed", "-rf": "not allowed", "a/b": "not allowed", "a b": "not allowed",
		"ä": "not allowed", "a\x00": "not allowed", "a\n": "not allowed", "a\xff": "not allowed",
		strings.Repeat("n", ident.MaxName+1): "longer than 63 bytes", strings.Repeat("ä", 40): "longer than 63 bytes", "x" + strings.Repeat("ä", 40): "longer than 63 bytes",
	} {
		err := ident.CheckName(bad)
		if err == nil || !strings.Contains(err.Error(), text) || !utf8.ValidString(err.Error()) {
			t.Errorf("name %q: %v, want %q", bad, err, text)
		}
	}
}

// FuzzNames: a name that passes is one element of a path and of a URI, and an
// id that passes prints as it was.
func FuzzNames(f *testing.F) {
	f.Add("erp-db.1")
	f.Add("../etc")
	f.Add("0123456789abcdef0123456789abcdef")
	f.Fuzz(func(t *testing.T, s string) {
		if ident.CheckName(s) == nil {
			if filepath.Base(s) != s || s == "." || s == ".." || strings.ContainsAny(s, "/\\:%?# ") || !filepath.IsLocal(s) {
				t.Errorf("name %q passed", s)
			}
		}
		if id, err := ident.ParseID(s); err == nil && id.String() != strings.ToLower(s) {
			t.Errorf("id %q prints as %s", s, id)
		}
	})
}
