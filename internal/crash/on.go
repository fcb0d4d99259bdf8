//go:build crashtest

package crash

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// plan is what the environment asks for.
type plan struct {
	mu   sync.Mutex
	name string
	left int // passes until the kill
	log  *os.File
}

var asked = sync.OnceValue(func() *plan {
	p := &plan{left: 1}
	var number string
	p.name, number, _ = strings.Cut(os.Getenv("DRRUN_CRASH_AT"), ":")
	if number != "" {
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 {
			panic(fmt.Sprintf("internal error: DRRUN_CRASH_AT=%s: the pass is a number from 1", os.Getenv("DRRUN_CRASH_AT")))
		}
		p.left = n
	}
	if name := os.Getenv("DRRUN_CRASH_LOG"); name != "" {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			panic("internal error: DRRUN_CRASH_LOG: " + err.Error())
		}
		p.log = f
	}
	return p
})

// At kills this process with SIGKILL if the environment asks for that here.
func At(name string) {
	p := asked()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log != nil {
		_, _ = p.log.WriteString(name + "\n") // in one write: other processes append too
	}
	if name != p.name {
		return
	}
	if p.left--; p.left == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // never returns an error for oneself
		select {}
	}
}
