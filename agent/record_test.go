package agent

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/drrun/drrun/internal/vfs"
)

// fill sets every field of v, and of what is in it, to something that is not
// empty. Names and paths are such that a record may hold them.
func fill(t *testing.T, v reflect.Value, name string) {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
		return
	case *json.RawMessage:
		*x = json.RawMessage(`{"a":1}`)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				fill(t, v.Field(i), f.Name)
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), name)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0), name)
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i), name)
		}
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		fill(t, e, name)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("k").Convert(v.Type().Key()), e)
	case reflect.String:
		v.SetString("x")
		if name == "Store" || name == "Paths" {
			v.SetString("/x")
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64, reflect.Int32:
		v.SetInt(1)
	case reflect.Uint64, reflect.Uint32, reflect.Uint8, reflect.Uint:
		v.SetUint(1)
	case reflect.Float64:
		v.SetFloat(0.5)
	default:
		t.Fatalf("field %s has kind %s", name, v.Kind())
	}
}

// TestGoldenRecord: a machine.json of this version with all its fields is read,
// every field finds its place, and it is written as it was. With -update it is
// made, if there is none: it stands for those in the field.
func TestGoldenRecord(t *testing.T) {
	t.Parallel()
	path, dir := filepath.Join("testdata", "machine_v1.json"), t.TempDir()
	if _, err := os.Stat(path); err != nil && flag.Lookup("update").Value.String() == "true" {
		var r record
		fill(t, reflect.ValueOf(&r).Elem(), "")
		r.Must = nil
		if err := r.write(vfs.OS{}, dir); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, recordName))
		if err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := decodeRecord(path, want)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.extra) > 0 {
		t.Errorf("it holds what no field takes: %s", r.extra)
	}
	if err := r.write(vfs.OS{}, dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("written back (%v):\n%s\nwant:\n%s", err, got, want)
	}
}
