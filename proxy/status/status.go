// Package status is the admin listener of both ends: what the process counts,
// whether it lives, and whether clients may come.
package status

import (
	"cmp"
	"context"
	"encoding/json"
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
)

// Whatever a peer can make us hold has a limit and a deadline.
const (
	maxConns       = 64               // scrapers, probes, an operator; more wait in the kernel
	maxHeaderBytes = 16 << 10         // a browser's cookies fit
	maxScrapes     = 4                // at once; gathering takes CPU from the relay path
	headerTimeout  = 5 * time.Second  // to send a request
	writeTimeout   = 30 * time.Second // to take the answer, over a slow line too
	idleTimeout    = 2 * time.Minute  // longer than the usual scrape interval, so that scrapers keep their connection
	drainTimeout   = 2 * time.Second  // for a scrape to finish when the process ends
)

// Server answers on the admin listener. Its fields are set before Serve; its
// zero value serves no metrics and is always ready.
type Server struct {
	// Gatherer has the metrics; nil means none.
	Gatherer prometheus.Gatherer

	// Ready returns nil while clients may come, else the sentence that says
	// why not. It is called concurrently and must not block. Nil means always
	// ready.
	Ready func() error

	// Tunnel returns what the process knows of the ways to its gateways, for
	// JSON. It is called concurrently. Nil means that there is no such page.
	// It names addresses: leave it out where strangers can come.
	Tunnel func() any

	// Hosts are the names under which the listener may be asked, besides every IP
	// address and localhost: host names without port.
	Hosts []string

	// Names are those of settings, for who is refused.
	Names hints.Names

	// Logger gets what goes wrong; nil means nowhere.
	Logger *slog.Logger
}

// Serve answers on ln until ctx is done or accepting fails, and closes ln. It
// returns nil after ctx is done, when the last answer is out or was given up.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	logger := cmp.Or(s.Logger, slog.New(slog.DiscardHandler))
	srv := &http.Server{
		Handler:           s.guard(s.handler(logger)),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
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

// shutdown waits for answers on their way, then closes what is left.
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
	says    string
	handler http.Handler
}

func (s *Server) handler(logger *slog.Logger) http.Handler {
	routes := router{
		{"/metrics", "metrics for Prometheus", s.metrics(logger)},
		{"/healthz", "200 while the process runs", http.HandlerFunc(healthz)},
		{"/readyz", "200 when ready for clients, else 503 and the reason", http.HandlerFunc(s.readyz)},
	}
	if s.Tunnel != nil {
		routes = append(routes, route{"/tunnel", "which transport is used, why, and when another is tried", http.HandlerFunc(s.tunnel)})
	}
	return routes
}

func (s *Server) tunnel(w http.ResponseWriter, _ *http.Request) {
	b, err := json.MarshalIndent(s.Tunnel(), "", "  ")
	if err != nil {
		text(w, http.StatusInternalServerError, printable.Text(err.Error(), printable.Record))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(append(b, '\n'))
}

// metrics serves the text, OpenMetrics and protobuf formats; native histograms
// are in the last. What can be gathered is served even when a collector fails.
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

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if s.Ready == nil {
		text(w, http.StatusOK, "ready")
		return
	}
	if err := s.Ready(); err != nil {
		text(w, http.StatusServiceUnavailable, printable.Text(err.Error(), printable.Record))
		return
	}
	text(w, http.StatusOK, "ready")
}

// router serves its pages and, on /, a list of them. It takes paths as they
// are, so that nothing is ever redirected.
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
	if path == "/" {
		return http.HandlerFunc(rt.index)
	}
	for _, route := range rt {
		if route.path == path {
			return route.handler
		}
	}
	return nil
}

func (rt router) index(w http.ResponseWriter, _ *http.Request) {
	list := "culvert"
	for _, route := range rt {
		list += fmt.Sprintf("\n%-10s%s", route.path, route.says)
	}
	text(w, http.StatusOK, list)
}

// text answers with a line or several that no cache may keep.
func text(w http.ResponseWriter, code int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	io.WriteString(w, s+"\n")
}
