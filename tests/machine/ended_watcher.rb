# ended_watcher.rb PATCH: the state of a machine is asked for in a thread that is ended in the middle.
require "vagrant"
require "tmpdir"

require ARGV.fetch(0)
class Index < Vagrant::MachineIndex
  attr_reader :taken

  def set(entry)
    (@taken ||= Queue.new) << entry.id
    sleep 0.2
    super
  end
end

Dir.mktmpdir do |folder|
  index = Index.new(Pathname.new(folder))
  entry = Vagrant::MachineIndex::Entry.new
  entry.name = entry.provider = entry.state = "x"
  entry.local_data_path = entry.vagrantfile_path = Pathname.new(folder)
  entry = index.set(entry)
  index.release(entry)
  index.taken.clear
  machine = Vagrant::Machine.allocate
  provider = Object.new
  provider.define_singleton_method(:state) { Vagrant::MachineState.new(:running, "running", "") }
  machine.instance_variable_set(:@provider, provider)
  machine.instance_variable_set(:@state_mutex, Mutex.new)
  machine.instance_variable_set(:@env, Struct.new(:machine_index).new(index))
  machine.define_singleton_method(:index_uuid) { entry.id }
  watcher = Thread.new { loop { machine.state } }
  index.taken.pop
  watcher.kill
  watcher.join
  puts machine.state.id
end
