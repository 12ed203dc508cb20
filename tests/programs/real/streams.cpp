// real_streams FILE: changes FILE through every way that C++ streams have of opening one.
#include <fstream>
#include <iostream>
#include <string>

static void finish(std::ostream &stream, const char *what)
{
    stream.flush();
    if (!stream) {
        std::cerr << what << " failed\n";
        std::exit(1);
    }
}

int main(int, char **argv)
{
    const std::string block(5000, 'f');
    {
        std::fstream both(argv[1], std::ios::in | std::ios::out | std::ios::binary);
        std::string line(100, 0);
        both.seekg(4000);
        both.read(line.data(), 100);
        both.seekp(60001);
        both << line << block << 3.25 << std::endl;
        finish(both, "fstream");
    }
    {
        std::ofstream appended(argv[1], std::ios::app);
        for (int i = 0; i < 900; i++)
            appended << "appended " << i << '\n';
        finish(appended, "ofstream app");
    }
    {
        std::filebuf buffer;
        buffer.pubsetbuf(nullptr, 0);
        if (!buffer.open(argv[1], std::ios::in | std::ios::out))
            return 1;
        buffer.pubseekoff(12345, std::ios::beg);
        if (buffer.sputn(block.data(), 3000) != 3000 || !buffer.close())
            return 1;
    }
    std::ofstream anew(argv[1]);
    for (int i = 0; i < 3000; i++)
        anew << "anew " << i << '\n';
    finish(anew, "ofstream");
}
