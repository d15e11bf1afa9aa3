package standin

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
)

// answer is one that the ingress gives by itself. It is the error of whatever led to it, which most
// answers hide.
type answer struct {
	status int
	kind   string // responseType, of JSON
	err    error
}

func (a *answer) Error() string { return a.err.Error() }
func (a *answer) Unwrap() error { return a.err }

// write sends the answer; signIn is where a redirect leads.
func (a *answer) write(w http.ResponseWriter, signIn string) {
	switch {
	case a.kind != "":
		writeJSON(w, a.status, map[string]string{"responseType": a.kind, "requestId": newID(), "detail": a.err.Error()})
	case a.status == http.StatusFound:
		w.Header().Set("Location", signIn)
		w.WriteHeader(a.status)
	case errors.Is(a.err, errCORS):
		http.Error(w, a.err.Error(), a.status)
	default: // it does not say why
		http.Error(w, http.StatusText(a.status), a.status)
	}
}

var errCORS = errors.New("Rejecting a CORS request since cookie was present, and request does not have an auth header")

// mark gives an answer what marks those of the ingress, instances' included.
func mark(h http.Header) {
	h.Set("Server", "_")
	h.Add("Set-Cookie", "sfc-ss-standin="+newID()+"; Path=/; Secure; HttpOnly")
}

// writeJSON answers with body, which can be encoded.
func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone
}

// newID is a random UUID.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	s := hex.EncodeToString(b[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}
