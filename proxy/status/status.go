// Package status is the admin listener of both ends. It serves metrics, and says whether the
// process runs and whether it is ready for clients.
package status

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// Limits and deadlines for what a peer can make us hold.
const (
	maxConns       = maxStreams + 64  // scrapers, probes and operators; more connections wait in the kernel
	maxHeaderBytes = 16 << 10         // enough for a browser's cookies for localhost
	maxScrapes     = 4                // at once; gathering metrics takes CPU time from relaying
	headerTimeout  = 5 * time.Second  // for a client to send a request
	writeTimeout   = 30 * time.Second // for a client to read the response, also on a slow link
	idleTimeout    = 2 * time.Minute  // longer than usual scrape intervals, so that scrapers keep their connection
	drainTimeout   = 2 * time.Second  // for a scrape to finish when the process ends
)

// Server serves the admin listener. Set its fields before Serve. The zero value serves no metrics
// and is always ready.
type Server struct {
	// Gatherer has the metrics; nil means none.
	Gatherer prometheus.Gatherer

	// Ready returns nil if the process is ready for clients, or else an error that says why not. It
	// is called concurrently and must not block. Nil means always ready.
	Ready func() error

	// Public says that the listener is open to others. /readyz then leaves the addresses out of an
	// error that has a Brief method, and prints what that returns.
	Public bool

	// Missing returns what does not work although the process is ready; nil means that all works.
	// It is called as Ready is. Nil means that there is nothing to say.
	Missing func() error

	// Status returns the status document. It is called concurrently. Nil means that there is no such
	// page, no stream of it, and no live page, which shows it. The document contains addresses: leave
	// it out if the listener is open to others and nobody has asked for it.
	Status func() document.Document

	// Profiles serves profiles of the process below /debug/pprof/. Leave it out if the listener is
	// open to others: each costs CPU time, and together they say what the process is doing.
	Profiles bool

	// Hosts are host names, without port, that requests may use, besides IP addresses and
	// localhost.
	Hosts []string

	// Names are the names of settings, in refusals.
	Names hints.Names

	// Logger logs errors; nil discards them.
	Logger *slog.Logger
}

// Serve serves ln until ctx is done or accepting fails, and closes ln. After ctx is done it waits
// up to drainTimeout for responses in progress, and returns nil.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	logger := cmp.Or(s.Logger, slog.New(slog.DiscardHandler))
	stream := newStream(s.Status)
	srv := &http.Server{
		Handler:           s.guard(s.handler(logger, stream)),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	srv.RegisterOnShutdown(stream.end)
	served := make(chan error, 1)
	go serve(srv, netutil.LimitListener(ln, maxConns), served)
	select {
	case err := <-served:
		srv.Close()
		return fmt.Errorf("serve status on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
		shutdown(srv)
		<-served
		return nil
	}
}

func serve(srv *http.Server, ln net.Listener, served chan<- error) { served <- srv.Serve(ln) }

// shutdown waits for responses in progress, and then closes what is left.
func shutdown(srv *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout) // the caller's context is done
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		srv.Close()
	}
}

// route is a page of the listener.
type route struct {
	path    string
	says    string // "": not listed
	handler http.Handler
}

func (s *Server) handler(logger *slog.Logger, stream *stream) http.Handler {
	routes := router{
		{"/metrics", "metrics for Prometheus", s.metrics(logger)},
		{"/healthz", "200 while the process runs", http.HandlerFunc(healthz)},
		{"/readyz", "200 when ready for clients, else 503 and the reason", http.HandlerFunc(s.readyz)},
	}
	if s.Status != nil {
		routes = append(routes, route{"/status", "what this process does and how well, as JSON", http.HandlerFunc(s.status)},
			route{"/status/stream", "the same once a second, as server-sent events", stream})
		routes = append(routes, pageFiles()...)
	}
	if s.Profiles {
		routes = append(routes, profiles()...)
	}
	return append(routes, route{path: "/", handler: s.root(routes)})
}

// status serves the status document.
func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	b, err := json.MarshalIndent(s.Status(), "", "  ")
	if err != nil {
		text(w, http.StatusInternalServerError, printable.Text(err.Error(), printable.Record))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(append(b, '\n'))
}

// metrics serves the text, OpenMetrics and protobuf formats; only protobuf has native histograms.
// If a collector fails, the other metrics are served.
func (s *Server) metrics(logger *slog.Logger) http.Handler {
	gatherer := s.Gatherer
	if gatherer == nil {
		gatherer = prometheus.NewRegistry()
	}
	return promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(logger.Handler(), slog.LevelError),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
		EnableOpenMetrics:   true,
	})
}

func healthz(w http.ResponseWriter, _ *http.Request) {
	text(w, http.StatusOK, "ok")
}

// reason is the text of why the process is not ready.
func (s *Server) reason(err error) string {
	if brief, ok := errors.AsType[interface {
		error
		Brief() string
	}](err); ok && s.Public {
		return brief.Brief()
	}
	return printable.Text(err.Error(), printable.Record)
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if s.Ready == nil {
		text(w, http.StatusOK, "ready")
		return
	}
	if err := s.Ready(); err != nil {
		text(w, http.StatusServiceUnavailable, s.reason(err))
		return
	}
	if s.Missing != nil {
		if err := s.Missing(); err != nil {
			text(w, http.StatusOK, "ready, but "+s.reason(err))
			return
		}
	}
	text(w, http.StatusOK, "ready")
}

// router serves its pages. Paths must match exactly. Unlike http.ServeMux it never redirects, so no response repeats a path or host of the request.
type router []route

func (rt router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := rt.find(r.URL.Path)
	if h == nil {
		text(w, http.StatusNotFound, "not found; see /")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		text(w, http.StatusMethodNotAllowed, "only GET and HEAD")
		return
	}
	h.ServeHTTP(w, r)
}

func (rt router) find(path string) http.Handler {
	for _, route := range rt {
		if route.path == path {
			return route.handler
		}
	}
	return nil
}

func (rt router) index(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, rt.list()) }

// list is a line for each route that is for people or programs.
func (rt router) list() string {
	width := 10
	for _, route := range rt {
		width = max(width, len(route.path)+1)
	}
	list := "culvert"
	for _, route := range rt {
		if route.says != "" {
			list += fmt.Sprintf("\n%-*s%s", width, route.path, route.says)
		}
	}
	return list
}

// text sends a plain text response that caches must not store.
func text(w http.ResponseWriter, code int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	io.WriteString(w, s+"\n")
}
