package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// handler serves:
//
//	POST /entries?id=N   200 when entry N is durable
//	GET  /entries        every id, a JSON array, in order
//	GET  /health         200 and the number of entries
//	POST /freeze, /thaw  hold writes still, and go on
func (s *store) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /entries", func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.ParseUint(r.URL.Query().Get("id"), 10, 64)
		if err != nil {
			http.Error(w, "want ?id=NUMBER", http.StatusBadRequest)
			return
		}
		if err := s.add(id); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("GET /entries", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		ids := s.list()
		if ids == nil {
			ids = []uint64{}
		}
		_ = json.NewEncoder(w).Encode(ids) // the client sees a cut body
	})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "ok %d entries\n", s.count())
	})
	mux.HandleFunc("POST /freeze", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.freeze(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("POST /thaw", func(http.ResponseWriter, *http.Request) { s.thaw() })
	return mux
}
