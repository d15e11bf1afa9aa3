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

// revocable has the gateway of a rig accept what was granted before and after
// alike, until revoked says that what came before is not.
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

// A spare is let in long before it becomes a stream. What has been revoked
// meanwhile opens none; with credentials that are accepted the stream is opened
// all the same, without the dialler's user noticing.
func TestASpareThatWasRevokedOpensNoStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var revoked atomic.Bool
		var grants []any
		r, _ := newMemRig(t, revocable(&revoked), func(r *rig) {
			serve := r.server.Serve
			r.server.Serve = func(ctx context.Context, c *Conn, o Open, p Peer) {
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
			t.Errorf("served what was granted with %v, want one stream of after the revocation", grants)
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
			t.Fatalf("%d spares left, and none was revoked", n)
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
				t.Error("a spare that was revoked is still there")
			}
		}
		r.stop()
	})
}
