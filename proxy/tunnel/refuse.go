package tunnel

import (
	"io"
	"net/http"
	"time"

	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// refusedTimeout bounds how long the rest of a refused request may take to arrive.
const refusedTimeout = time.Second

// refuse answers a request that opens no stream, with a sentence for a human.
func refuse(w http.ResponseWriter, status int, sentence string) {
	// net/http reads the rest of a body, however long that takes.
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(refusedTimeout))
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	io.WriteString(w, printable.Text(sentence, exchange.MaxMessage)+"\n")
}
