package proxy

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

const (
	// revokeEvery is how often a gateway looks whether the credentials behind its
	// streams are still accepted. Their files are looked at as often at least, so
	// that a file which is gone is missed in time, though nobody comes.
	revokeEvery = 2 * time.Second
	// revokeLooks is how often in a row a credential must be missing before open
	// streams end: a file that is written in place is incomplete for a moment.
	revokeLooks = 2
)

var errRevoked = errors.New("the token or certificate behind this connection is not accepted any more")

// admission is by what a connection was let in, and whether that still holds.
type admission struct {
	peer tunnel.Peer

	// Owned by watchCredentials.
	missed  int       // looks in a row that did not find it
	revoked time.Time // when the connection was told to end; zero for not
}

// watchCredentials ends what was opened with credentials that are not accepted
// any more, until ctx is done.
func (g *Gateway) watchCredentials(ctx context.Context) {
	if g.Judge == nil {
		return
	}
	var cuts sync.WaitGroup
	defer cuts.Wait()
	tick := time.NewTicker(cmp.Or(g.lookEvery, revokeEvery))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		g.server.EndRevokedSpares()
		if g.RevokeStreams {
			g.revoke(&cuts)
		}
	}
}

// revoke has connections end between two requests whose credentials are not
// accepted any more, and cuts those that take longer than DrainTimeout.
func (g *Gateway) revoke(cuts *sync.WaitGroup) {
	g.mu.Lock()
	conns := maps.Clone(g.conns)
	g.mu.Unlock()
	judge, ended := g.Judge(), map[string]int{}
	for c, a := range conns {
		switch {
		case !a.revoked.IsZero():
			if time.Since(a.revoked) >= g.DrainTimeout {
				cuts.Go(func() { c.cut(errRevoked) })
			}
		case judge(a.peer.Grant) == nil:
			a.missed = 0
		default:
			if a.missed++; a.missed == revokeLooks {
				a.revoked = time.Now()
				c.drain()
				ended[a.peer.Identity]++
			}
		}
	}
	for identity, n := range ended {
		g.Logger.Warn("streams end, what opened them is not accepted any more", "identity", identity, "streams", n)
	}
}
