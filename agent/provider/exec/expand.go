package execprov

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/drrun/drrun/agent/provider"
	"github.com/drrun/drrun/internal/fault"
)

// envToken is the variable by which a process is found again.
const envToken = "DRRUN_LAUNCH"

var placeholder = regexp.MustCompile(`\{(disk\.[A-Za-z0-9._-]+|ip|machine|site|epoch)\}`)

// expand puts the values of a launch into the placeholders of a command, in
// one pass: a value is never expanded again, and no shell sees it.
func expand(args []string, l provider.Launch) ([]string, error) {
	var fail error
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = placeholder.ReplaceAllStringFunc(a, func(m string) string {
			name := m[1 : len(m)-1]
			if disk, ok := strings.CutPrefix(name, "disk."); ok {
				path, known := l.Disks[disk]
				if !known {
					fail = fault.Errorf(fault.Invalid, "machine %s: command %q names disk %q, which it does not have", l.Machine, a, disk)
				}
				return path
			}
			return map[string]string{
				"ip": l.IP, "machine": l.Machine, "site": l.Site,
				"epoch": strconv.FormatUint(uint64(l.Epoch), 10),
			}[name]
		})
		if strings.ContainsRune(out[i], 0) {
			fail = fault.Errorf(fault.Invalid, "machine %s: command argument %d holds a zero byte", l.Machine, i)
		}
	}
	return out, fail
}

// environment is base and the variables of a launch.
func environment(base []string, l provider.Launch) []string {
	env := slices.DeleteFunc(slices.Clone(base), func(v string) bool { return strings.HasPrefix(v, "DRRUN_") })
	add := func(k, v string) { env = append(env, k+"="+v) }
	for _, name := range slices.Sorted(maps.Keys(l.Disks)) {
		add("DRRUN_DISK_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_")), l.Disks[name])
	}
	add("DRRUN_IP", l.IP)
	add("DRRUN_MACHINE", l.Machine)
	add("DRRUN_SITE", l.Site)
	add("DRRUN_EPOCH", strconv.FormatUint(uint64(l.Epoch), 10))
	add("DRRUN_RUN", l.Run)
	add("DRRUN_TYPE", l.Type)
	add(envToken, l.Token)
	return env
}
