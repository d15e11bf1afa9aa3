package credentials

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// settleTime is how old a file's last change must be, when the file is read, for an unchanged
// modification time to mean unchanged content. Some file systems, such as FAT, store times in steps
// of two seconds.
const settleTime = 2 * time.Second

// lapseAfter is how long credentials in a file are accepted after the file has gone missing.
// Replacing a file by removing it first takes less.
const lapseAfter = 5 * time.Second

// reread is the parsed content of some files. It parses them again when one has changed.
//
// The files are checked on use, so no goroutine or watch is needed. If they cannot be read or
// parsed, as between replacing a certificate and replacing its key, the last good value stays in
// use and the error is logged once. With lapses that ends after lapseAfter: an operator who deletes
// the file of allowed tokens does not want them to work forever.
//
// Set the first fields before use.
type reread[T any] struct {
	files  []File
	secret bool // warn if every user on the machine can read the files
	lapses bool // the value expires lapseAfter after the files were last good
	parse  func(contents [][]byte) (T, error)
	log    *slog.Logger

	mu      sync.Mutex
	seen    []fs.FileInfo // of the files when they were read last; nil: read them again
	failed  error         // of that read
	value   T             // the last good value
	good    bool          // there is a value
	current time.Time     // when the files last had this value
	logged  string        // the error that has been logged
	warned  bool          // warnWorldReadable has logged
}

// Secrets returns a function that returns the parsed content of files with secrets. The function
// reads them again when one has changed. If that fails, it returns the last good content and logs
// the error. The function may be called concurrently. A nil logger discards.
func Secrets[T any](parse func(contents [][]byte) (T, error), log *slog.Logger, files ...File) (func() (T, error), error) {
	r := &reread[T]{files: files, secret: true, parse: parse, log: orDiscard(log)}
	if _, err := r.get(); err != nil {
		return nil, err
	}
	return r.get, nil
}

// get returns the current value. It may be called concurrently. It returns an error only if there
// never was a good value, or if the value has lapsed; other errors are logged.
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
		return r.value, explainMissing(err)
	case lapsed:
		r.logOnce(err, "file cannot be read, its credentials are rejected until it can")
		var none T
		return none, err
	case !r.lapses:
		r.logOnce(err, "file cannot be read again, its last content stays in use")
	}
	return r.value, nil
}

// refresh reads the files again if one has changed. Its error means that value is not what the
// files hold now.
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

// explainMissing adds to the error of a file that has never been read what to do about it.
func explainMissing(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return hints.New(err, "correct the path, or create the file")
	case errors.Is(err, fs.ErrPermission):
		return hints.New(err, "let the user of this process read the file")
	}
	return err
}

// logOnce logs an error, unless the same error has been logged last.
func (r *reread[T]) logOnce(err error, what string) {
	if r.logged == err.Error() {
		return
	}
	r.logged = err.Error()
	r.log.Error(what, "err", &hints.Error{
		Err: err, Remedy: "restore the file and let the user of this process read it: it takes effect at once, without a restart",
	}, "file", r.files[0].String())
}

// logRecovered logs that the error that logOnce has logged is over.
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

// warnWorldReadable logs once that every user on the machine can read a secret.
func (r *reread[T]) warnWorldReadable(infos []fs.FileInfo) {
	if !r.secret || r.warned || runtime.GOOS == "windows" { // Go makes up the permission bits on Windows
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

// settled reports whether all files are old enough for their times to be trusted: see settleTime.
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
