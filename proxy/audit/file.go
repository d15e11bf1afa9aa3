package audit

import (
	"io/fs"
	"os"
	"syscall"

	"github.com/culvert-proxy/culvert/proxy/credentials"
)

// Stdout is the path that stands for stdout.
const Stdout = "-"

// A file is an output that is opened again when something else, or nothing, has its name: it was
// renamed or removed, as logrotate does. If it was truncated instead, lines go on at its new end.
type file struct {
	path string
	f    *os.File
	torn int   // bytes of the line that f did not take as a whole
	size int64 // of f when it did not
}

func openOutput(path string) (output, error) {
	if path == Stdout {
		return &file{f: os.Stdout}, nil
	}
	o := &file{path: path}
	return o, o.open()
}

// open opens the file, and creates it if it is missing. Lines name people and addresses: others
// cannot read a file that is made here.
func (o *file) open() error {
	if info, err := os.Stat(o.path); err == nil { // before opening it: opening a pipe blocks
		if err := credentials.CheckRegular(o.path, info); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(o.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		err = credentials.CheckRegular(o.path, info)
	}
	if err != nil {
		f.Close()
		return err
	}
	if lastIsTorn(o.path, info.Size()) {
		if _, err := f.WriteString("\n"); err != nil {
			f.Close()
			return err
		}
	}
	o.f, o.torn = f, 0
	return nil
}

// lastIsTorn reports whether the last line of a file has no end: its process was killed, or the
// disk was full until then. A file that cannot be read is taken for complete.
func lastIsTorn(path string, size int64) bool {
	if size == 0 {
		return false
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	last := make([]byte, 1)
	_, err = f.ReadAt(last, size-1)
	return err == nil && last[0] != '\n'
}

// follow opens the file again if something else has its name. That is looked at before each line, so
// that none goes to a file that was renamed: a stat costs little beside a write.
func (o *file) follow() error {
	if o.path == "" {
		return nil
	}
	named, err := os.Stat(o.path)
	if err == nil {
		var have fs.FileInfo
		if have, err = o.f.Stat(); err == nil && os.SameFile(named, have) {
			return nil
		}
	}
	former := o.f
	if err := o.open(); err != nil {
		return err
	}
	return former.Close()
}

func (o *file) write(line []byte) error {
	if err := o.follow(); err != nil {
		return err
	}
	if o.torn > 0 && o.sizeNow() < o.size {
		o.torn = 0 // somebody has made room by truncating the file: its part of the line is gone
	}
	n, err := o.f.Write(line[o.torn:])
	if o.torn += n; err == nil {
		o.torn = 0
	} else {
		o.size = o.sizeNow()
	}
	return err
}

func (o *file) sizeNow() int64 {
	info, err := o.f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

func (o *file) close() error {
	if o.path == "" {
		return nil
	}
	return o.f.Close()
}
