package tunnel

import (
	"io"
	"net/http"
	"time"

	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

// refusedTimeout is how long the rest of a request may take that is refused.
const refusedTimeout = time.Second

// refuse answers a request that opens no stream with a sentence for whoever reads it.
func refuse(w http.ResponseWriter, status int, sentence string) {
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(refusedTimeout)) // net/http reads a body's rest, however long that takes
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	io.WriteString(w, printable.Text(sentence, exchange.MaxMessage)+"\n")
}
