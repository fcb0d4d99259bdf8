package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"syscall"

	"github.com/drrun/drrun/cmd/internal/term"
	"github.com/drrun/drrun/internal/logkit"
)

// Env is all that a command takes from the operating system.
type Env struct {
	Args   []string // without the program's name
	Getenv func(string) string
	Stdin  io.Reader
	// Asks says that somebody sits at Stdin and reads Stderr: questions may be
	// asked there.
	Asks   bool
	Stdout term.Terminal
	Stderr term.Terminal
	// Signals are the interrupts of the user.
	Signals <-chan os.Signal
	User    string // who asks, for records: USER@HOST
	Root    bool   // the effective user is root
	Home    string
}

// osEnv is the environment of a real process; the only place that reads it.
func osEnv() Env {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	noColor := os.Getenv("NO_COLOR") != ""
	home, _ := os.UserHomeDir() // "" is refused where it is needed
	e := Env{
		Args: os.Args[1:], Getenv: os.Getenv, Stdin: os.Stdin,
		Stdout: term.Of(os.Stdout, noColor), Stderr: term.Of(os.Stderr, noColor),
		Signals: signals, User: currentUser(), Root: os.Geteuid() == 0, Home: home,
	}
	e.Asks = logkit.IsTerminal(os.Stdin) && e.Stderr.Interactive
	return e
}

func currentUser() string {
	name := fmt.Sprintf("uid %d", os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// stateFolder is where the runtime's state is: flag, environment, default.
func (e *Env) stateFolder(flag string) (string, error) {
	dir := flag
	if dir == "" {
		dir = e.Getenv("DRRUN_STATE")
	}
	switch {
	case dir != "":
	case e.Root:
		dir = "/var/lib/drrun"
	case e.Home == "":
		return "", usage("there is no home folder to keep the state in: set --state or DRRUN_STATE")
	default:
		dir = filepath.Join(e.Home, ".local/state/drrun")
	}
	return filepath.Abs(dir)
}
