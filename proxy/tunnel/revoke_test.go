package tunnel

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// revocable makes the gateway of a rig revoke, once revoked is set, what it has granted before.
func revocable(revoked *atomic.Bool) func(*rig) {
	return func(r *rig) {
		r.server.Grant = func(req *http.Request) any { return revoked.Load() }
		r.server.Judge = func() func(any) error {
			return func(grant any) error {
				if revoked.Load() && grant == false {
					return errors.New("revoked")
				}
				return nil
			}
		}
	}
}

// A spare is authenticated long before it becomes a stream. If its credentials have been revoked
// meanwhile it opens no stream; with valid credentials the stream is then opened anew, and the user
// of the Dialer does not notice.
func TestASpareThatWasRevokedOpensNoStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var revoked atomic.Bool
		var grants []any
		r, _ := newMemRig(t, revocable(&revoked), func(r *rig) {
			serve := r.server.Serve
			r.server.Serve = func(ctx context.Context, c *Conn, o *Open, p *Peer) {
				grants = append(grants, p.Grant)
				serve(ctx, c, o, p)
			}
		})
		r.ready(4)
		revoked.Store(true)
		c, s := r.dial()
		c.Close()
		s.finish()
		synctest.Wait()
		if len(grants) != 1 || grants[0] != true {
			t.Errorf("served streams with the grants %v, want one granted after the revocation", grants)
		}
		r.stop()
	})
}

func TestRevokedSparesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var revoked atomic.Bool
		r, _ := newMemRig(t, revocable(&revoked))
		r.ready(4)
		r.server.EndRevokedSpares()
		synctest.Wait()
		if n := len(r.server.registry.spares); n != 4 {
			t.Fatalf("%d spares are left, and none was revoked", n)
		}
		before := make(map[*Conn]bool)
		for c := range r.server.registry.spares {
			before[c] = true
		}
		revoked.Store(true)
		r.server.EndRevokedSpares()
		time.Sleep(time.Minute)
		synctest.Wait()
		for c := range r.server.registry.spares {
			if before[c] {
				t.Error("a revoked spare is still there")
			}
		}
		r.stop()
	})
}
