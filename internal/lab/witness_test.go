package lab

import (
	"testing"
	"time"
)

func TestReadLife(t *testing.T) {
	t.Parallel()
	l, err := readLife("life db1 paris production 1 -\n1000 start\n2000 beat\n3000 stop\n40")
	want := Life{Machine: "db1", Site: "paris", Type: "production", Epoch: "1", Run: "-", Begin: time.Unix(0, 1000), End: time.Unix(0, 3000), Stopped: true}
	if err != nil || l != want {
		t.Errorf("got %+v, %v; want %+v", l, err, want)
	}
	for _, bad := range []string{"", "life db1\n", "life db1 paris production 1 -\n", "life db1 paris production 1 -\nsoon start\n"} {
		if l, err := readLife(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, l)
		}
	}
}

func TestTogether(t *testing.T) {
	t.Parallel()
	life := func(machine, site, typ string, from, to int64) Life {
		return Life{Machine: machine, Site: site, Type: typ, Begin: time.Unix(from, 0), End: time.Unix(to, 0)}
	}
	for name, tc := range map[string]struct {
		lives []Life
		want  int
	}{
		"one after the other": {[]Life{life("a", "paris", "production", 1, 5), life("a", "lyon", "production", 5, 9)}, 0},
		"two machines":        {[]Life{life("a", "paris", "production", 1, 5), life("b", "lyon", "production", 1, 5)}, 0},
		"in a test":           {[]Life{life("a", "paris", "production", 1, 5), life("a", "lyon", "test", 2, 3)}, 0},
		"two sites":           {[]Life{life("a", "paris", "production", 1, 5), life("a", "lyon", "production", 4, 9)}, 1},
		"one site twice":      {[]Life{life("a", "paris", "production", 1, 9), life("a", "paris", "production", 4, 5)}, 1},
	} {
		if got := Together(tc.lives); len(got) != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
