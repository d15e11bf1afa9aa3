package credentials

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// File is a file that a setting names. Name is how the user writes that setting,
// so that errors can say which one to look at.
type File struct{ Path, Name string }

func (f File) String() string { return f.Name + " " + f.Path }

// MaxFile bounds what is read of a file that a setting names: the certificates
// of all CAs that a system trusts are a quarter of it.
const MaxFile = 1 << 20

// ReadFile reads a regular file, or a link to one, of at most limit bytes. A
// pipe could keep the start waiting for ever, and has nothing to tell when it is
// read again; a device need not end. An error is an [fs.PathError].
func ReadFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path) // before it is opened: that alone can wait, or wind a tape
	if err == nil {
		err = CheckRegular(path, info)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // not to wait for a pipe's writer where it is another file by now
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err == nil {
		err = CheckRegular(path, info)
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it is larger than %d bytes", limit)}
	}
	return b, err
}

// CheckRegular returns an error that says what a file is which is not regular, or nil.
func CheckRegular(path string, info fs.FileInfo) error {
	is := "a device"
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return nil
	case mode.IsDir():
		is = "a directory"
	case mode&fs.ModeNamedPipe != 0:
		is = "a pipe"
	case mode&fs.ModeSocket != 0:
		is = "a socket"
	case mode&fs.ModeSymlink != 0:
		is = "a link to nothing"
	}
	return &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it is %s, not a regular file", is)}
}

// fileError says once which file it is about; errors of package os say it too.
func fileError(f File, err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return fmt.Errorf("read %s: %w", f, err)
}

// lines yields, with their numbers from 1, the lines that are neither empty nor comments.
func lines(content []byte) func(yield func(int, string) bool) {
	content = bytes.TrimPrefix(content, []byte("\ufeff"))
	return func(yield func(int, string) bool) {
		number := 0
		for line := range strings.Lines(string(content)) {
			number++
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if !yield(number, line) {
				return
			}
		}
	}
}
