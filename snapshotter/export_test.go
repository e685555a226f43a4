package snapshotter

// SetStep has fn called before and after each write of the database becomes durable.
func (o *Options) SetStep(fn func(point string)) { o.step = fn }
