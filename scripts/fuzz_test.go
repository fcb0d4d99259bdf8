package scripts_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts"
)

// FuzzLoad: any source loads or has faults, each with a place, and never hangs,
// panics or is blamed on a host function.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.lua")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range files {
		src, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(src), true)
		f.Add(string(src), false)
	}
	for _, c := range hostile {
		if len(c.src) < 300 && c.want != "time limit" && !strings.Contains(c.src, "while true") {
			f.Add(c.src, false)
		}
	}
	l := scripts.New(scripts.Options{PlanTime: 200 * time.Millisecond, Text: 1 << 20, Memory: 512 << 20})
	f.Fuzz(func(t *testing.T, src string, estate bool) {
		b, err := scripts.ReadBundle(func(name string) ([]byte, error) {
			if name == "p.lua" {
				return []byte(src), nil
			}
			return nil, fs.ErrNotExist
		}, "p.lua")
		if err != nil && len(src) <= 4<<20 {
			t.Fatal(err)
		}
		if estate {
			_, err = l.LoadEstate(b)
		} else {
			_, err = l.LoadPlan(b, nil)
		}
		if err == nil {
			return
		}
		var faults plans.Faults
		if !errors.As(err, &faults) || len(faults) == 0 {
			t.Fatalf("no faults but %v", err)
		}
		for _, fault := range faults {
			if fault.Pos.File != "p.lua" || fault.Pos.Line < 1 || fault.Message == "" || strings.Contains(fault.Message, "internal error") {
				t.Errorf("fault %+v", fault)
			}
		}
	})
}
