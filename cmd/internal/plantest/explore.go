package plantest

import (
	"github.com/drrun/drrun/scripts"
)

// Request says what is to be explored.
type Request struct {
	Plan   string            `json:"plan"`
	Estate string            `json:"estate,omitempty"`
	Set    map[string]string `json:"set,omitempty"`
	Pairs  int               `json:"pairs,omitempty"` // of faults
	Seed   uint64            `json:"seed,omitempty"`
}

// Report is what an exploration has found.
type Report struct{}

// Explore is not there yet.
func Explore(*scripts.Loader, Bubble, Request, func()) (*Report, error) { return &Report{}, nil }
