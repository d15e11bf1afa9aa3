package standin

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// DefaultProbeEvery is the time between two probes of an instance.
const DefaultProbeEvery = time.Second

// failureThreshold is how many probes in a row must fail before an instance gets no more requests,
// where a specification says nothing else.
const failureThreshold = 3

// A Service has a public endpoint, and instances behind it.
type Service struct {
	Hosts     []string // of the endpoint
	Roles     []string // that the endpoint's service role is granted to
	Instances []Instance
	// Resume starts the instances of a suspended service. It is called when a request comes and no
	// instance is ready, and not again until one was. It must not block. Nil: nothing is suspended.
	Resume func()

	mu       sync.Mutex
	ready    map[string]bool // by address, of those that are probed
	resuming bool
}

// Instance is where one process listens.
type Instance struct {
	Address string // host:port of plain HTTP
	Ready   string // URL that answers 200 when it is ready, probed by Ingress.Serve; "": it always is
}

// Ready is how many instances get requests.
func (s *Service) Ready() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.readyOnes())
}

// pick returns the address of an instance that is ready, chosen at random, or "".
func (s *Service) pick() (address string) {
	s.mu.Lock()
	ready, resume := s.readyOnes(), s.Resume
	if len(ready) > 0 || s.resuming {
		resume = nil
	}
	s.resuming = len(ready) == 0
	s.mu.Unlock()
	if resume != nil {
		resume()
	}
	if len(ready) == 0 {
		return ""
	}
	return ready[rand.N(len(ready))]
}

// readyOnes are the addresses of instances that are ready. The caller holds mu.
func (s *Service) readyOnes() (ready []string) {
	for _, i := range s.Instances {
		if i.Ready == "" || s.ready[i.Address] {
			ready = append(ready, i.Address)
		}
	}
	return ready
}

// probe probes an instance until ctx is done.
func (s *Service) probe(ctx context.Context, client *http.Client, i Instance, every time.Duration) {
	again := time.NewTicker(every)
	defer again.Stop()
	for failures := 0; ; {
		failures++
		if isReady(ctx, client, i.Ready, every) {
			failures = 0
		}
		s.mu.Lock()
		if s.ready == nil {
			s.ready = make(map[string]bool)
		}
		s.ready[i.Address] = failures == 0 || failures < failureThreshold && s.ready[i.Address]
		s.mu.Unlock()
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

func isReady(ctx context.Context, client *http.Client, url string, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, max(patience, time.Second))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	io.CopyN(io.Discard, response.Body, 4<<10)
	return response.StatusCode == http.StatusOK
}
