// Package prometheus starts Prometheus for the tests, and finds every query of the repository: those
// of dashboards, alerts and documents.
package prometheus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/culvert-proxy/culvert/test/proc"
)

// Env is the variable that names another prometheus than the system's, to try a newer version. Its
// promtool must be beside it.
const Env = "CULVERT_TEST_PROMETHEUS"

// Need skips a test if Prometheus is not available.
func Need(t testing.TB) {
	t.Helper()
	for _, name := range []string{"prometheus", "promtool"} {
		if _, err := program(name); err != nil {
			t.Skip(err)
		}
	}
}

func program(name string) (string, error) {
	if other := os.Getenv(Env); other != "" {
		return exec.LookPath(filepath.Join(filepath.Dir(other), name))
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("needs %s (Debian: apt-get install prometheus)", name)
	}
	return path, nil
}

// Promtool runs promtool in a folder and returns what it printed.
func Promtool(ctx context.Context, dir string, args ...string) (string, error) {
	path, err := program("promtool")
	if err != nil {
		return "", err
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	return proc.Run(ctx, cmd)
}

// Histograms says which histograms Prometheus scrapes.
type Histograms string

// The kinds of histograms. Metrics of culvert have both.
const (
	Classic Histograms = "classic"
	Native  Histograms = "native"
	Both    Histograms = "both"
)

// Job is what one job scrapes.
type Job struct {
	Name    string
	Targets []string          // host:port
	Labels  map[string]string // of every target
}

// Server is a Prometheus that scrapes once a second.
type Server struct {
	Version version
	listen  string
	process *proc.Process
}

// version is a version of Prometheus. Minor versions have two digits at most.
type version struct{ major, minor int }

// scrapesNativeBySetting says how native histograms are switched on: by a setting since 3.8, by a
// feature flag before.
func (v version) scrapesNativeBySetting() bool { return v.major > 3 || v.major == 3 && v.minor >= 8 }

// String is the version as 3.16.
func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

// Kinds are the kinds of histograms that Prometheus can scrape. Before 3.0 a metric that has both was
// always scraped as native, if that was on.
func Kinds(ctx context.Context) ([]Histograms, error) {
	path, err := program("prometheus")
	if err != nil {
		return nil, err
	}
	v, err := versionOf(ctx, path)
	if err != nil || v.major < 3 {
		return []Histograms{Classic, Native}, err
	}
	return []Histograms{Classic, Native, Both}, nil
}

// Start starts Prometheus at an address, with its data in a folder, and returns when it answers.
func Start(ctx context.Context, dir, listen string, h Histograms, jobs []Job) (*Server, error) {
	path, err := program("prometheus")
	if err != nil {
		return nil, err
	}
	s := &Server{listen: listen}
	if s.Version, err = versionOf(ctx, path); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "prometheus.yml")
	content, err := yaml.Marshal(s.config(h, jobs))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, content, 0o644); err != nil {
		return nil, err
	}
	args := []string{"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + listen}
	if h != Classic && !s.Version.scrapesNativeBySetting() {
		args = append(args, "--enable-feature=native-histograms")
	}
	if s.process, err = proc.Start(exec.Command(path, args...)); err != nil {
		return nil, err
	}
	if err := s.waitReady(ctx); err != nil {
		s.process.Kill()
		return nil, fmt.Errorf("%w\n%s", err, s.process.Output())
	}
	return s, nil
}

// versionOf asks a program. It prints "prometheus, version 2.42.0+ds (branch: ...".
func versionOf(ctx context.Context, path string) (v version, err error) {
	cmd := exec.Command(path, "--version")
	out, err := proc.Run(ctx, cmd)
	if err != nil {
		return v, err
	}
	_, text, _ := strings.Cut(out, "version ")
	if n, _ := fmt.Sscanf(text, "%d.%d", &v.major, &v.minor); n != 2 {
		// A binary of go install does not know its version, but knows that of its module: v0.316.1.
		return moduleVersion(ctx, path)
	}
	return v, nil
}

// moduleVersion is the version of a program that go install has built. Prometheus 3.16.1 is v0.316.1
// of its module.
func moduleVersion(ctx context.Context, path string) (v version, err error) {
	out, err := proc.Run(ctx, exec.Command("go", "version", "-m", path))
	if err != nil {
		return v, err
	}
	_, text, _ := strings.Cut(out, "\tgithub.com/prometheus/prometheus\tv0.")
	number, _, _ := strings.Cut(text, ".")
	n, err := strconv.Atoi(number)
	if err != nil {
		return v, fmt.Errorf("%s does not tell its version: %s", path, out)
	}
	return version{n / 100, n % 100}, nil
}

func (s *Server) config(h Histograms, jobs []Job) map[string]any {
	global := map[string]any{"scrape_interval": "1s", "scrape_timeout": "1s"}
	if h != Classic && s.Version.scrapesNativeBySetting() {
		global["scrape_native_histograms"] = true
	}
	var scrape []any
	for _, j := range jobs {
		c := map[string]any{"job_name": j.Name, "static_configs": []any{map[string]any{"targets": j.Targets, "labels": j.Labels}}}
		if h == Both {
			c["always_scrape_classic_histograms"] = true
		}
		scrape = append(scrape, c)
	}
	return map[string]any{"global": global, "scrape_configs": scrape}
}

func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("Prometheus not ready in time"))
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		if _, err := s.Query(ctx, "vector(1)"); err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-s.process.Done():
			return fmt.Errorf("Prometheus has ended: %w", s.process.Wait())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Close stops it.
func (s *Server) Close() error { return s.process.Terminate(10 * time.Second) }

// Sample is one result of a query.
type Sample struct {
	Labels map[string]string
	Value  string // of a histogram: its sum and count
}

// answer is the API's answer to an instant query.
type answer struct {
	Status string
	Error  string
	Data   struct {
		ResultType string
		Result     json.RawMessage
	}
}

// Query evaluates an expression now.
func (s *Server) Query(ctx context.Context, expr string) ([]Sample, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.listen+"/api/v1/query?query="+url.QueryEscape(expr), nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var a answer
	if err := json.NewDecoder(response.Body).Decode(&a); err != nil {
		return nil, fmt.Errorf("query %s: %s: %w", expr, response.Status, err)
	}
	if a.Status != "success" {
		return nil, fmt.Errorf("query %s: %s", expr, a.Error)
	}
	return a.samples()
}

func (a answer) samples() (all []Sample, err error) {
	if a.Data.ResultType != "vector" {
		return nil, fmt.Errorf("the result is a %s, want a vector", a.Data.ResultType)
	}
	var vector []struct {
		Metric    map[string]string
		Value     [2]any
		Histogram *[2]any
	}
	if err := json.Unmarshal(a.Data.Result, &vector); err != nil {
		return nil, err
	}
	for _, v := range vector {
		value := fmt.Sprint(v.Value[1])
		if v.Histogram != nil {
			h, _ := v.Histogram[1].(map[string]any)
			value = fmt.Sprintf("sum %v, count %v", h["sum"], h["count"])
		}
		all = append(all, Sample{Labels: v.Metric, Value: value})
	}
	return all, nil
}
