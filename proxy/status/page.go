package status

import (
	"embed"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// files are the live page: plain HTML, CSS and JavaScript, which load nothing from elsewhere.
//
//go:embed page
var files embed.FS

const (
	folder = "page"
	index  = folder + "/index.html"
)

// contentTypes are those of the page's files. Package mime would ask the system.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// policy is what a browser may do for the page: run its scripts, and read the stream. Nothing may be
// written as HTML, so text of a peer stays text.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// pageFiles are the routes of the page's files but the first, which / serves.
func pageFiles() (routes router) {
	entries, err := files.ReadDir(folder)
	if err != nil {
		panic(err) // they are part of the program
	}
	for _, e := range entries {
		if name := path.Join(folder, e.Name()); name != index {
			routes = append(routes, route{path: "/" + name, handler: file(name)})
		}
	}
	return routes
}

// file serves one file of the page. Each response ends its connection: browsers would keep several
// of them, and all share maxConns.
func file(name string) http.Handler {
	content, err := files.ReadFile(name)
	if err != nil {
		panic(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", contentTypes[path.Ext(name)])
		h.Set("Content-Length", strconv.Itoa(len(content)))
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store") // the next process may be of another version
		h.Set("Connection", "close")
		w.Write(content)
	})
}

// root serves / : the page to a browser, and to others a list of what there is.
func (s *Server) root(routes router) http.Handler {
	page, list := file(index), s.list(routes)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept")
		if s.Status != nil && wantsHTML(r.Header) {
			page.ServeHTTP(w, r)
			return
		}
		text(w, http.StatusOK, list)
	})
}

// list is the list of routes, and says how to see the page.
func (s *Server) list(routes router) string {
	switch {
	case s.Status != nil:
		return append(slices.Clone(routes), route{path: "/", says: "the live page, in a browser"}).list()
	case s.Public:
		return routes.list() + s.Names.Sprintf("\nOthers can reach this listener: the live page and /status are served only with %s.", hints.AdminPage)
	}
	return routes.list()
}

// wantsHTML tells browsers from programs: only they ask for HTML by name.
func wantsHTML(h http.Header) bool {
	for _, accept := range h.Values("Accept") {
		for part := range strings.SplitSeq(accept, ",") {
			if kind, _, _ := strings.Cut(part, ";"); strings.EqualFold(strings.TrimSpace(kind), "text/html") {
				return true
			}
		}
	}
	return false
}
