package status

import (
	"fmt"
	"net/http"
	"net/http/pprof" // registers its pages with http.DefaultServeMux, which nothing here serves
	"strconv"
	"sync"
)

// maxProfileSeconds bounds how long a profile may be taken: its answer ends only then.
const maxProfileSeconds = 60

// profilePath begins the paths of profiles, where go tool pprof looks for them.
const profilePath = "/debug/pprof/"

// profiles are the pages of profiles. The command line, which net/http/pprof has a page for too, may
// hold a password.
func profiles() router {
	var p profiler
	return router{
		{profilePath, "these profiles, for go tool pprof", http.HandlerFunc(profileIndex)},
		{profilePath + "heap", "memory in use", p.oneAtATime(pprof.Handler("heap"))},
		{profilePath + "allocs", "memory that was ever allocated", p.oneAtATime(pprof.Handler("allocs"))},
		{profilePath + "goroutine", "goroutines; with ?debug=2 as text", p.oneAtATime(pprof.Handler("goroutine"))},
		{profilePath + "profile", "CPU time during ?seconds=N, 30 unless given", p.oneAtATime(http.HandlerFunc(pprof.Profile))},
		{profilePath + "trace", "for go tool trace, during ?seconds=N, 1 unless given", p.oneAtATime(http.HandlerFunc(pprof.Trace))},
	}
}

// profileIndex lists the profiles.
func profileIndex(w http.ResponseWriter, r *http.Request) { profiles().index(w, r) }

// profiler takes one profile at a time: each costs what it measures.
type profiler struct{ mu sync.Mutex }

// oneAtATime bounds what a request for a profile may ask for. net/http/pprof extends the time to
// write the answer by that of the profile.
func (p *profiler) oneAtATime(take http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Another site may link to other pages. A profile costs more, and is downloaded: the page with
		// the link stays, and could follow it again and again.
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
			text(w, http.StatusForbidden, "the admin listener does not take profiles for pages of other sites")
			return
		}
		if s := r.URL.Query().Get("seconds"); s != "" {
			if n, err := strconv.ParseFloat(s, 64); err != nil || !(n > 0 && n <= maxProfileSeconds) {
				text(w, http.StatusBadRequest, fmt.Sprintf("seconds must be a number from 1 to %d", maxProfileSeconds))
				return
			}
		}
		if !p.mu.TryLock() {
			text(w, http.StatusServiceUnavailable, "another profile is being taken; try again when it is done")
			return
		}
		defer p.mu.Unlock()
		w.Header().Set("Cache-Control", "no-store")
		take.ServeHTTP(w, r)
	})
}
