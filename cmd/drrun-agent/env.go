package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"syscall"

	"github.com/drrun/drrun/internal/logkit"
)

// Env is all that a command takes from the operating system.
type Env struct {
	Args     []string // without the program's name
	Environ  []string // handed on to the programs that the agent runs
	Getenv   func(string) string
	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer
	Terminal bool // Stderr is a terminal
	Signals  <-chan os.Signal
	User     string // who asks, for records
	Root     bool   // the effective user is root
	Home     string
}

// osEnv is the environment of a real process; the only place that reads it.
func osEnv() Env {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	home, _ := os.UserHomeDir() // "" is refused where it is needed
	return Env{
		Args: os.Args[1:], Environ: os.Environ(), Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Terminal: logkit.IsTerminal(os.Stderr), Signals: signals, User: currentUser(), Root: os.Geteuid() == 0, Home: home,
	}
}

func currentUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

// stateFolder is where the agent's state is: flag, environment, default.
func (e *Env) stateFolder(flag string) (string, error) {
	dir := flag
	if dir == "" {
		dir = e.Getenv("DRRUN_AGENT_STATE")
	}
	switch {
	case dir != "":
	case e.Root:
		dir = "/var/lib/drrun-agent"
	case e.Home == "":
		return "", usage("there is no home folder to keep the state in: set --state or DRRUN_AGENT_STATE")
	default:
		dir = filepath.Join(e.Home, ".local/state/drrun-agent")
	}
	return filepath.Abs(dir)
}
