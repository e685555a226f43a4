package snapshotter

// SetStep has fn called before and after each write of the database becomes durable.
func (o *Options) SetStep(fn func(point string)) { o.step = fn }

// Pause keeps the worker and Cleanup out until the result is called.
func (s *Snapshotter) Pause() (resume func()) {
	<-s.passes
	return func() { s.passes <- struct{}{} }
}
