package credentials

import (
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// settleTime is how old a file's last change must be at its reading, before an
// unchanged modification time is taken for unchanged content: clocks of file
// systems tick as slowly as every other second.
const settleTime = 2 * time.Second

// lapseAfter is for how long files that let somebody in may be missing before
// they let in nobody: longer than it takes to replace one by removing it first.
const lapseAfter = 5 * time.Second

// reread is what some files hold, parsed, and parsed again when one has changed.
//
// They are looked at on use, so that no goroutine and no watch is needed. What
// cannot be read or parsed any more, as when a certificate has been replaced and
// its key has not been yet, leaves the last good value in force and is logged
// once. With lapses it does so for lapseAfter and no longer: who deletes a file
// of those who may come in does not mean that all of them still may.
type reread[T any] struct {
	files  []File
	secret bool // warn when everybody on the machine may read the files
	lapses bool
	parse  func(contents [][]byte) (T, error)
	log    *slog.Logger

	mu      sync.Mutex
	seen    []fs.FileInfo // at the last reading; nil: read again
	failed  error         // of that reading
	value   T
	good    bool      // value has been read
	current time.Time // when value was last what the files hold
	logged  string    // already logged
	warned  bool      // of who may read the files
}

// Secrets returns what parse makes of files that hold secrets. The function reads
// them again when one has changed; when that goes wrong it returns what they held
// before, and says so in the log. A nil logger discards.
func Secrets[T any](parse func(contents [][]byte) (T, error), log *slog.Logger, files ...File) (func() (T, error), error) {
	r := &reread[T]{files: files, secret: true, parse: parse, log: orDiscard(log)}
	if _, err := r.get(); err != nil {
		return nil, err
	}
	return r.get, nil
}

// get returns the current value. It may be called concurrently. An error is of
// the first reading, or of what has lapsed; others are logged.
func (r *reread[T]) get() (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.refresh()
	lapsed := r.lapses && time.Since(r.current) >= lapseAfter
	switch {
	case err == nil:
		r.current = time.Now()
		r.logRecovered()
	case !r.good:
		return r.value, err
	case lapsed:
		r.logOnce(err, "file cannot be read, its credentials are rejected until it can")
		var none T
		return none, err
	case !r.lapses:
		r.logOnce(err, "file cannot be read again, its last content stays in use")
	}
	return r.value, nil
}

// refresh brings value up to date, or says why it is not.
func (r *reread[T]) refresh() error {
	seen, err := statAll(r.files)
	if err != nil {
		r.seen = nil
		return err
	}
	if unchanged(r.seen, seen) {
		return r.failed
	}
	value, err := r.read()
	r.seen, r.failed = nil, err
	if settled(seen) {
		r.seen = seen
	}
	if err == nil {
		r.value, r.good = value, true
		r.warnWorldReadable(seen)
	}
	return err
}

// logOnce logs once what is wrong, with what happens now.
func (r *reread[T]) logOnce(err error, what string) {
	if r.logged == err.Error() {
		return
	}
	r.logged = err.Error()
	r.log.Error(what, "err", &hints.Error{
		Err: err, Remedy: "restore the file and let the user of this process read it: it takes effect at once, without a restart",
	})
}

// logRecovered logs that what complain has logged is over.
func (r *reread[T]) logRecovered() {
	if r.logged != "" {
		r.logged = ""
		r.log.Info("file can be read again and is in use", "file", r.files[0].String())
	}
}

func (r *reread[T]) read() (T, error) {
	contents := make([][]byte, len(r.files))
	for i, f := range r.files {
		b, err := ReadFile(f.Path, MaxFile)
		if err != nil {
			var none T
			return none, fileError(f, err)
		}
		contents[i] = b
	}
	return r.parse(contents)
}

// warnWorldReadable says, once, which secrets are open to everybody.
func (r *reread[T]) warnWorldReadable(infos []fs.FileInfo) {
	if !r.secret || r.warned || runtime.GOOS == "windows" { // where the bits mean nothing
		return
	}
	for i, info := range infos {
		if info.Mode().Perm()&0o004 != 0 {
			r.log.Warn("every user on this machine can read a secret file",
				"file", r.files[i].String(), "mode", info.Mode().Perm().String())
			r.warned = true
		}
	}
}

func statAll(files []File) ([]fs.FileInfo, error) {
	infos := make([]fs.FileInfo, len(files))
	for i, f := range files {
		info, err := os.Stat(f.Path)
		if err != nil {
			return nil, fileError(f, err)
		}
		infos[i] = info
	}
	return infos, nil
}

func unchanged(before, now []fs.FileInfo) bool {
	if len(before) != len(now) {
		return false
	}
	for i, b := range before {
		n := now[i]
		if !os.SameFile(b, n) || b.Size() != n.Size() || !b.ModTime().Equal(n.ModTime()) {
			return false
		}
	}
	return true
}

func settled(infos []fs.FileInfo) bool {
	for _, info := range infos {
		if time.Since(info.ModTime()) < settleTime {
			return false
		}
	}
	return infos != nil
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}
