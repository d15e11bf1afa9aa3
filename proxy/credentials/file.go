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

// File is a file that a setting names. Name is how the user writes that setting, as in
// --token-file, so that errors say which setting to check.
type File struct{ Path, Name string }

func (f File) String() string { return f.Name + " " + f.Path }

// MaxFile bounds the bytes of a file that a setting names. A file with all CAs that a system trusts
// has a quarter of that.
const MaxFile = 1 << 20

// ReadFile reads a regular file, or a link to one, of at most limit bytes. Pipes are errors:
// reading one may block forever, and it cannot be read again. So are devices, which may never end.
// The error is an [fs.PathError].
func ReadFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path) // before opening it: opening a pipe blocks, and opening a device may act on it
	if err == nil {
		err = CheckRegular(path, info)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // O_NONBLOCK: a pipe may have replaced the file since Stat
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

// CheckRegular returns nil for a regular file, otherwise an [fs.PathError] that says what the file
// is.
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

// fileError adds the file to err. Errors of package os contain the path already, which fileError
// removes.
func fileError(f File, err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return fmt.Errorf("read %s: %w", f, err)
}

// lines yields the lines that are neither empty nor comments, trimmed, with their numbers from 1.
// It skips a byte order mark, which editors on Windows write.
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
