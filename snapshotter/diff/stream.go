package diff

import (
	"crypto/sha256"
	"hash"
	"io"
	"sync"
	"sync/atomic"

	digest "github.com/opencontainers/go-digest"
)

const (
	chunkSize = 256 << 10
	chunks    = 8
)

// stream reads ahead of its reader in the background, and hashes what it reads in another goroutine.
type stream struct {
	out, free chan *chunk
	stop      chan struct{}
	err       error // written before out is closed
	cur       *chunk

	ended sync.WaitGroup
	hash  hash.Hash
	size  int64 // written before ended
}

type chunk struct {
	buf   [chunkSize]byte
	n, at int
	users atomic.Int32
}

// newStream starts to read r. Without hashed it only reads ahead. close must be called.
func newStream(r io.Reader, hashed bool) *stream {
	s := &stream{out: make(chan *chunk, chunks), free: make(chan *chunk, chunks), stop: make(chan struct{})}
	for range chunks {
		s.free <- &chunk{}
	}
	var in chan *chunk
	if hashed {
		s.hash = sha256.New()
		in = make(chan *chunk, chunks)
		s.ended.Go(func() {
			for c := range in {
				s.hash.Write(c.buf[:c.n])
				s.size += int64(c.n)
				s.release(c)
			}
		})
	}
	s.ended.Go(func() {
		defer close(s.out)
		if in != nil {
			defer close(in)
		}
		s.fill(r, in)
	})
	return s
}

func (s *stream) fill(r io.Reader, in chan<- *chunk) {
	for {
		var c *chunk
		select {
		case <-s.stop:
			s.err = io.ErrClosedPipe
			return
		case c = <-s.free:
		}
		var err error
		c.n, err = io.ReadFull(r, c.buf[:])
		if c.n > 0 {
			c.at = 0
			c.users.Store(1)
			if in != nil {
				c.users.Store(2)
				in <- c
			}
			s.out <- c
		}
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		if err != nil {
			s.err = err
			return
		}
	}
}

// release gives a chunk back; there is room for all.
func (s *stream) release(c *chunk) {
	if c.users.Add(-1) == 0 {
		s.free <- c
	}
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	for s.cur == nil {
		c, ok := <-s.out
		if !ok {
			return 0, s.err
		}
		s.cur = c
	}
	n := copy(p, s.cur.buf[s.cur.at:s.cur.n])
	s.cur.at += n
	if s.cur.at == s.cur.n {
		s.release(s.cur)
		s.cur = nil
	}
	return n, nil
}

// sum tells the digest and size of all that was read, once that is to its end.
func (s *stream) sum() (digest.Digest, int64) {
	s.ended.Wait()
	return digest.NewDigest(digest.SHA256, s.hash), s.size
}

// close ends the reading; r is not used after it returns.
func (s *stream) close() {
	close(s.stop)
	s.ended.Wait()
}
